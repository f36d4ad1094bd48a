// A database of LMDB: `lmdb FOLDER fill COUNT`, `lmdb FOLDER check`. With `map` at the end it is written through its mapping (MDB_WRITEMAP).
//
// The header of the library is not installed everywhere where the library is, so what is used of it stands here (lmdb.h of LMDB 0.9).
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct MDB_env MDB_env;
typedef struct MDB_txn MDB_txn;
typedef struct MDB_cursor MDB_cursor;
typedef unsigned int MDB_dbi;
typedef struct { size_t mv_size; void *mv_data; } MDB_val;
int mdb_env_create(MDB_env **);
int mdb_env_set_mapsize(MDB_env *, size_t);
int mdb_env_open(MDB_env *, const char *, unsigned int, unsigned int);
void mdb_env_close(MDB_env *);
int mdb_txn_begin(MDB_env *, MDB_txn *, unsigned int, MDB_txn **);
int mdb_txn_commit(MDB_txn *);
void mdb_txn_abort(MDB_txn *);
int mdb_dbi_open(MDB_txn *, const char *, unsigned int, MDB_dbi *);
int mdb_put(MDB_txn *, MDB_dbi, MDB_val *, MDB_val *, unsigned int);
int mdb_cursor_open(MDB_txn *, MDB_dbi, MDB_cursor **);
int mdb_cursor_get(MDB_cursor *, MDB_val *, MDB_val *, int);
char *mdb_strerror(int);
#define MDB_WRITEMAP 0x80000
#define MDB_RDONLY 0x20000
#define MDB_NEXT 8

static void good(int result, const char *what) {
    if (result != 0) {
        printf("%s: %s\n", what, mdb_strerror(result));
        exit(1);
    }
}

int main(int count, char **words) {
    if (count < 3) return 2;
    int maps = !strcmp(words[count - 1], "map");
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    good(mdb_env_create(&env), "create");
    good(mdb_env_set_mapsize(env, 64 << 20), "size");
    good(mdb_env_open(env, words[1], maps ? MDB_WRITEMAP : 0, 0644), "open");
    char key[32], value[100];
    if (!strcmp(words[2], "fill")) {
        // One after another, so that the end may come at any time.
        for (int number = 0; number < atoi(words[3]); number++) {
            good(mdb_txn_begin(env, NULL, 0, &txn), "begin");
            good(mdb_dbi_open(txn, NULL, 0, &dbi), "dbi");
            int len = snprintf(key, sizeof key, "key-%08d", number);
            memset(value, 'a' + number % 26, sizeof value);
            MDB_val k = {len, key}, v = {sizeof value, value};
            good(mdb_put(txn, dbi, &k, &v, 0), "put");
            good(mdb_txn_commit(txn), "commit");
            printf("committed %d\n", number + 1);
            fflush(stdout);
        }
    } else {
        good(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "begin");
        good(mdb_dbi_open(txn, NULL, 0, &dbi), "dbi");
        MDB_cursor *cursor;
        good(mdb_cursor_open(txn, dbi, &cursor), "cursor");
        MDB_val k, v;
        int number = 0;
        while (mdb_cursor_get(cursor, &k, &v, MDB_NEXT) == 0) {
            int len = snprintf(key, sizeof key, "key-%08d", number);
            memset(value, 'a' + number % 26, sizeof value);
            if (k.mv_size != len || memcmp(k.mv_data, key, len) || memcmp(v.mv_data, value, sizeof value)) {
                printf("wrong at %d\n", number);
                return 1;
            }
            number++;
        }
        printf("found %d\n", number);
        mdb_txn_abort(txn);
    }
    mdb_env_close(env);
    return 0;
}
