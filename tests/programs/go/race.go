// Two goroutines that write without a lock, for the race detector.
package main

import (
	"fmt"
	"sync"
)

var shared int

func main() {
	var group sync.WaitGroup
	for i := 0; i < 2; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for n := 0; n < 1000; n++ {
				shared++
			}
		}()
	}
	group.Wait()
	fmt.Println("SUCCESS")
}
