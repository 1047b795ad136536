// The server: what it does with a call is asked for by the call's own metadata, `do-...`.

import io.grpc.Context;
import io.grpc.HandlerRegistry;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerMethodDefinition;
import io.grpc.Status;
import io.grpc.netty.NettyServerBuilder;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.security.MessageDigest;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;

final class Server extends ServerCall.Listener<byte[]> implements Runnable {
  static final Map<String, CountDownLatch> GATES = new ConcurrentHashMap<>();
  static final Map<String, String> ENDINGS = new ConcurrentHashMap<>();
  static final byte[] END = new byte[0];
  static final ExecutorService THREADS = Executors.newCachedThreadPool();

  static int serve() throws IOException {
    HandlerRegistry all =
        new HandlerRegistry() {
          @Override
          public ServerMethodDefinition<?, ?> lookupMethod(String name, String authority) {
            ServerCallHandler<byte[], byte[]> handler =
                (call, headers) -> {
                  Server server = new Server(call, headers, Context.current().getDeadline() != null);
                  THREADS.execute(server);
                  return server;
                };
            return ServerMethodDefinition.create(Peer.method("/" + name, "both"), handler);
          }
        };
    return NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0))
        .fallbackHandlerRegistry(all)
        .maxInboundMessageSize(1 << 30)
        .build()
        .start()
        .getPort();
  }

  private final ServerCall<byte[], byte[]> call;
  private final Metadata headers;
  private final boolean deadline;
  private final BlockingQueue<byte[]> received = new LinkedBlockingQueue<>();
  private final Semaphore ready = new Semaphore(0);
  private final CountDownLatch gone = new CountDownLatch(1);

  Server(ServerCall<byte[], byte[]> call, Metadata headers, boolean deadline) {
    this.call = call;
    this.headers = headers;
    this.deadline = deadline;
  }

  @Override
  public void onMessage(byte[] message) {
    received.add(message);
  }

  @Override
  public void onHalfClose() {
    received.add(END);
  }

  @Override
  public void onReady() {
    ready.release();
  }

  @Override
  public void onCancel() {
    ending("cancelled");
    gone.countDown();
    received.add(END);
  }

  @Override
  public void onComplete() {
    ending("finished");
  }

  private void ending(String how) {
    if (instruction("do-tag") != null) ENDINGS.put(instruction("do-tag"), how);
  }

  @Override
  public void run() {
    try {
      answer();
    } catch (Exception error) {
      if (gone.getCount() > 0) throw new IllegalStateException(error);
    }
  }

  private void answer() throws Exception {
    if (instruction("do-ending") != null) {
      for (int i = 0; i < 100 && !ENDINGS.containsKey(instruction("do-ending")); i++) Thread.sleep(50);
      call.sendHeaders(new Metadata());
      call.sendMessage(ENDINGS.getOrDefault(instruction("do-ending"), "unknown").getBytes());
      call.close(Status.OK, new Metadata());
      return;
    }
    if (instruction("do-open") != null) gate(instruction("do-open")).countDown();
    Metadata entries = new Metadata();
    for (String[] pair : Peer.pairs(headers)) {
      if (pair[0].startsWith("x-")) Peer.put(entries, pair[0], pair[1]);
    }
    boolean bare = instruction("do-bare") != null;
    boolean each = instruction("do-each") != null;
    boolean early = instruction("do-early") != null;
    if (!bare) {
      if (instruction("do-compress") != null) call.setCompression("gzip");
      call.sendHeaders(entries);
      call.setMessageCompression(instruction("do-compress") != null);
    }
    if (instruction("do-gate") != null) {
      while (gone.getCount() > 0 && !gate(instruction("do-gate")).await(20, TimeUnit.MILLISECONDS)) {}
    }
    MessageDigest hashes = MessageDigest.getInstance("SHA-256");
    int count = 0;
    long bytes = 0;
    if (!early) {
      call.request(1);
      for (byte[] message = received.take(); message != END; message = received.take()) {
        count++;
        bytes += message.length;
        hashes.update(Peer.sha(message));
        if (each) send();
        call.request(1);
      }
    }
    if (gone.await(number("do-wait-ms", 0), TimeUnit.MILLISECONDS)) return;
    if (!bare && !each && !early) {
      for (int remaining = number("do-count", 1); remaining > 0; remaining--) {
        send();
        if (gone.await(number("do-pause-ms", 0), TimeUnit.MILLISECONDS)) return;
      }
    }
    Metadata trailers = new Metadata();
    trailers.merge(entries);
    String sums = count + ":" + bytes + ":" + Peer.hex(hashes.digest()).substring(0, 12);
    Peer.put(trailers, "received-messages", sums);
    Peer.put(trailers, "has-deadline", String.valueOf(deadline));
    Peer.put(trailers, "answer-bin", "AP+A");
    Status status = Status.fromCodeValue(number("do-status", 0));
    if (!status.isOk()) status = status.withDescription("details: 100% schlecht, ü and \n more");
    call.close(status, trailers);
  }

  private void send() throws InterruptedException {
    while (!call.isReady() && gone.getCount() > 0) ready.tryAcquire(50, TimeUnit.MILLISECONDS);
    if (gone.getCount() > 0) call.sendMessage(Peer.file(instruction("do-answer")));
  }

  private String instruction(String key) {
    return headers.get(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER));
  }

  private int number(String key, int otherwise) {
    return instruction(key) == null ? otherwise : Integer.parseInt(instruction(key));
  }

  private static CountDownLatch gate(String name) {
    return GATES.computeIfAbsent(name, any -> new CountDownLatch(1));
  }
}
