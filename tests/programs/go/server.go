// An HTTP server, goroutines and timers.
package main

import (
	"fmt"
	"net/http"
	"runtime"
	"sync"
	"time"
)

func main() {
	http.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		var group sync.WaitGroup
		var lock sync.Mutex
		sum := 0
		for i := 1; i <= 100; i++ {
			group.Add(1)
			go func(n int) {
				defer group.Done()
				time.Sleep(time.Millisecond)
				lock.Lock()
				sum += n
				lock.Unlock()
			}(i)
		}
		group.Wait()
		runtime.GC()
		fmt.Fprint(w, sum)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello ", r.URL.Path) })
	fmt.Println("listening")
	panic(http.ListenAndServe(":8000", nil))
}
