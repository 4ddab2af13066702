//! The answerer, with connections over loopback.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

fn listener() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn poll(listener: &TcpListener, send: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(send).unwrap();
    stream
}

fn said(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn pooled() -> Answerer {
    let mut answerer = Answerer::new(Vec::new());
    let pools = vec![(b"jobs".to_vec(), b"20%\n".to_vec())];
    answerer.set_replies(Replies { default: b"50%\n".to_vec(), pools });
    answerer
}

#[test]
fn a_poll_gets_the_reply_whatever_it_sent() {
    let listener = listener();
    let mut answerer = Answerer::new(Vec::new());
    answerer.set_replies(Replies { default: b"up 75%\n".to_vec(), pools: Vec::new() });
    let (silent, loud) = (poll(&listener, b""), poll(&listener, b"GET / HTTP/1.1\r\n\r\n"));
    assert_eq!(answerer.serve_batch(listener.as_fd(), 8, 1, &mut Vec::new()), End::Drained);
    assert_eq!((said(silent), said(loud)), ("up 75%\n".into(), "up 75%\n".into()));
    assert_eq!(answerer.totals().answered, 2);
}

#[test]
fn a_burst_is_bounded() {
    let listener = listener();
    let mut answerer = Answerer::new(Vec::new());
    let _polls = [poll(&listener, b""), poll(&listener, b"")];
    assert_eq!(answerer.serve_batch(listener.as_fd(), 1, 1, &mut Vec::new()), End::More);
    assert_eq!(answerer.totals().answered, 1);
}

#[test]
fn who_is_not_allowed_gets_nothing() {
    let listener = listener();
    let mut answerer = Answerer::new(vec![Net::parse("10.0.0.0/8").unwrap()]);
    answerer.set_replies(Replies { default: b"up\n".to_vec(), pools: Vec::new() });
    let stranger = poll(&listener, b"");
    answerer.serve_batch(listener.as_fd(), 8, 1, &mut Vec::new());
    assert_eq!(said(stranger), "");
    assert_eq!((answerer.totals().refused, answerer.totals().answered), (1, 0));
}

#[test]
fn the_first_who_is_allowed_is_kept_for_the_burst_and_nobody_is_counted_twice() {
    let listener = listener();
    let mut answerer = Answerer::new(vec![Net::parse("127.0.0.2/32").unwrap()]);
    answerer.set_replies(Replies { default: b"up\n".to_vec(), pools: Vec::new() });
    assert!(!answerer.accept_allowed(listener.as_fd(), 8, 1));
    let strangers = [poll(&listener, b""), poll(&listener, b"")];
    assert!(!answerer.accept_allowed(listener.as_fd(), 8, 1));
    assert_eq!(strangers.map(said), ["", ""]);
    answerer.configure(vec![Net::parse("127.0.0.1/32").unwrap()]);
    let polls = [poll(&listener, b""), poll(&listener, b"")];
    assert!(answerer.accept_allowed(listener.as_fd(), 8, 1));
    assert!(answerer.accept_allowed(listener.as_fd(), 8, 1));
    assert_eq!(answerer.serve_batch(listener.as_fd(), 0, 1, &mut Vec::new()), End::More);
    assert_eq!(answerer.totals().answered, 1);
    assert_eq!(answerer.serve_batch(listener.as_fd(), 8, 1, &mut Vec::new()), End::Drained);
    assert_eq!(polls.map(said), ["up\n", "up\n"]);
    assert_eq!((answerer.totals().refused, answerer.totals().answered), (2, 2));
    assert_eq!(answerer.pollers().map(|(_, poller)| poller.polls).sum::<u64>(), 4);
}

#[test]
fn the_line_chooses_the_pool_and_an_unknown_one_the_default() {
    let listener = listener();
    let mut answerer = pooled();
    let polls = [&b"jobs\n"[..], b"jobs \r\n", b"web\n", &[b'x'; 300]].map(|line| poll(&listener, line));
    answerer.serve_batch(listener.as_fd(), 8, 1, &mut Vec::new());
    assert_eq!(polls.map(said), ["20%\n", "20%\n", "50%\n", "50%\n"]);
    assert_eq!(answerer.answered_by_pool().collect::<Vec<_>>(), [(&b"jobs"[..], 2)]);
    assert_eq!(answerer.totals().answered, 4);
}

#[test]
fn who_owes_a_line_is_set_aside_until_it_comes_or_time_is_over() {
    let listener = listener();
    let mut answerer = pooled();
    let mut owing = Vec::new();
    let mut slow = poll(&listener, b"jo");
    answerer.serve_batch(listener.as_fd(), 8, 1, &mut owing);
    assert_eq!(owing.len(), 1);
    slow.write_all(b"bs\n").unwrap();
    assert!(answerer.readable(owing[0]));
    assert_eq!(said(slow), "20%\n");

    let silent = [poll(&listener, b""), poll(&listener, b"")];
    owing.clear();
    answerer.serve_batch(listener.as_fd(), 8, 1, &mut owing);
    answerer.expire(owing[0], true);
    answerer.expire(owing[1], false);
    assert_eq!(silent.map(said), ["50%\n", "50%\n"]);
    assert_eq!((answerer.totals().timed_out, answerer.totals().evicted), (1, 1));
}
