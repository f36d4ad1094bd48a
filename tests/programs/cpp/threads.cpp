// Threads, exceptions that cross frames, condition variables, thread-local storage.
#include <atomic>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

thread_local int mine = 0;

static int deep(int n) {
    if (n == 0) throw std::runtime_error("from below");
    return deep(n - 1) + 1;
}

int main() {
    std::atomic<int> caught{0};
    std::mutex lock;
    std::condition_variable turn;
    int next = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < 32; i++)
        threads.emplace_back([&, i] {
            for (int n = 0; n < 100; n++) {
                mine++;
                try { deep(20); } catch (const std::runtime_error &) { caught++; }
            }
            std::unique_lock<std::mutex> held(lock);
            turn.wait(held, [&] { return next == i; });
            next++;
            turn.notify_all();
            if (mine != 100) abort();
        });
    for (auto &thread : threads) thread.join();
    if (caught != 3200 || next != 32) return 1;
    std::cout << "SUCCESS" << std::endl;
}
