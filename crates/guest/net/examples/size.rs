use kiln_net::*;
fn main() {
    let s = Stack::new(Config::from_device(&Default::default(), [1;32]), kiln_abi::Instant::ZERO);
    let st = s.clone();
    let f = async move {
        st.ready().await;
        let l = TcpListener::bind(&st, "[::]:80".parse().unwrap()).unwrap();
        let (mut c, _) = l.accept().await.unwrap();
        let mut b=[0;100];
        let n = c.read(&mut b).await.unwrap(); c.write_all(&b[..n]).await.unwrap();
        c.set_nodelay(true); c.set_keepalive(None); c.shutdown().await.unwrap();
        let u = UdpSocket::bind(&st, "[::]:80".parse().unwrap()).unwrap();
        let (_n,a)=u.recv_from(&mut b).await.unwrap(); u.send_to(&b,a).await.unwrap();
        let a = st.lookup("x").await.unwrap();
        let mut c = TcpStream::connect(&st, (a[0], 80).into()).await.unwrap(); c.write(&b).await.unwrap();
    };
    let mut f = Box::pin(f);
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    loop { let _ = std::future::Future::poll(f.as_mut(), &mut cx); s.poll(kiln_abi::Instant::ZERO); s.receive(Default::default(), &std::env::args().next().unwrap().as_bytes(), s.deadline(kiln_abi::Instant::ZERO)); s.transmit(|f| f.len()); println!("{:?}", s.stats().open); }
}
