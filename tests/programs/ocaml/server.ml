(* An echo server on Unix sockets' select, and threads. *)
let () =
  let sum = ref 0 and lock = Mutex.create () in
  let work n = for _ = 1 to 100 do Mutex.lock lock; sum := !sum + n; Mutex.unlock lock; Thread.yield () done in
  let threads = List.init 10 (fun n -> Thread.create work n) in
  List.iter Thread.join threads;
  assert (!sum = 4500);
  let listener = Unix.socket Unix.PF_INET Unix.SOCK_STREAM 0 in
  Unix.setsockopt listener Unix.SO_REUSEADDR true;
  Unix.bind listener (Unix.ADDR_INET (Unix.inet_addr_any, 8000));
  Unix.listen listener 16;
  print_endline "listening";
  while true do
    let connection, _ = Unix.accept listener in
    ignore (Thread.create (fun () ->
      let buffer = Bytes.create 4096 in
      let rec copy () =
        let n = Unix.read connection buffer 0 4096 in
        if n > 0 then (ignore (Unix.write connection buffer 0 n); copy ()) in
      copy (); Unix.close connection) ())
  done
