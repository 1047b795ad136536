// The client: one scenario on one connection.

import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.netty.NettyChannelBuilder;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

final class Client {
  static final class Call {
    String method;
    String kind;
    List<String> send;
    List<List<String>> metadata;
    long timeout_ms;
    boolean compress;
    int cancel_after;
    boolean wait_for_ready;
  }

  static final class Scenario {
    String target;
    List<Call> background;
    long settle_ms;
    Call call;
    int repeat;
    int rate;
    int parallel;
  }

  static final class Observation {
    List<String> messages = new ArrayList<>();
    int code;
    String text = "";
    List<String[]> initial = new ArrayList<>();
    List<String[]> trailing = new ArrayList<>();
  }

  static Map<String, Object> run(Scenario scenario) throws Exception {
    ManagedChannel channel =
        NettyChannelBuilder.forTarget(scenario.target).usePlaintext().maxInboundMessageSize(1 << 30).build();
    ExecutorService threads = Executors.newCachedThreadPool();
    CountDownLatch read = new CountDownLatch(1); // counted down when what is left unread is read
    try {
      List<Future<Observation>> background = new ArrayList<>();
      for (Call call : scenario.background) background.add(threads.submit(() -> makeCall(channel, call, read)));
      if (!background.isEmpty()) Thread.sleep(scenario.settle_ms);
      List<Object> outcomes = repeat(channel, threads, scenario);
      read.countDown();
      List<Observation> unread = new ArrayList<>();
      for (Future<Observation> future : background) unread.add(future.get());
      return Map.of("background", unread, "outcomes", outcomes);
    } finally {
      read.countDown();
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
      threads.shutdownNow();
    }
  }

  static List<Object> repeat(ManagedChannel channel, ExecutorService threads, Scenario scenario) throws Exception {
    Map<String, Integer> counts = new ConcurrentHashMap<>();
    AtomicInteger next = new AtomicInteger();
    long begin = System.nanoTime();
    List<Future<?>> workers = new ArrayList<>();
    for (int worker = 0; worker < scenario.parallel; worker++) {
      workers.add(
          threads.submit(
              () -> {
                for (int number = next.getAndIncrement(); number < scenario.repeat; number = next.getAndIncrement()) {
                  if (scenario.rate > 0) {
                    long due = begin + 1_000_000_000L * number / scenario.rate;
                    TimeUnit.NANOSECONDS.sleep(Math.max(0, due - System.nanoTime()));
                  }
                  counts.merge(Peer.JSON.toJson(makeCall(channel, scenario.call, null)), 1, Integer::sum);
                }
                return null;
              }));
    }
    for (Future<?> worker : workers) worker.get();
    List<Object> outcomes = new ArrayList<>();
    counts.forEach((line, count) -> outcomes.add(List.of(Peer.JSON.fromJson(line, Observation.class), count)));
    return outcomes;
  }

  static Observation makeCall(ManagedChannel channel, Call request, CountDownLatch read) throws InterruptedException {
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(request.timeout_ms, TimeUnit.MILLISECONDS);
    if (request.compress) options = options.withCompression("gzip");
    if (request.wait_for_ready) options = options.withWaitForReady();
    MethodDescriptor<byte[], byte[]> method = Peer.method(request.method, request.kind);
    ClientCall<byte[], byte[]> call = channel.newCall(method, options);
    Metadata metadata = new Metadata();
    for (List<String> pair : request.metadata) Peer.put(metadata, pair.get(0), pair.get(1));
    Observation observation = new Observation();
    CountDownLatch done = new CountDownLatch(1);
    Semaphore ready = new Semaphore(0);
    call.start(
        new ClientCall.Listener<>() {
          @Override
          public void onHeaders(Metadata headers) {
            observation.initial = Peer.pairs(headers);
          }

          @Override
          public void onMessage(byte[] message) {
            if (request.cancel_after > 0 && observation.messages.size() >= request.cancel_after) return;
            observation.messages.add(Peer.digest(message));
            if (observation.messages.size() == request.cancel_after) call.cancel("cancelled by the caller", null);
            else call.request(1);
          }

          @Override
          public void onReady() {
            ready.release();
          }

          @Override
          public void onClose(Status status, Metadata trailers) {
            observation.code = status.getCode().value();
            observation.text = status.getDescription() == null ? "" : status.getDescription();
            observation.trailing = Peer.pairs(trailers);
            done.countDown();
            ready.release();
          }
        },
        metadata);
    if (request.compress) call.setMessageCompression(true);
    if (read == null) call.request(1);
    for (String name : request.send) {
      while (!call.isReady() && done.getCount() > 0 && method.getType() != MethodDescriptor.MethodType.UNARY
          && method.getType() != MethodDescriptor.MethodType.SERVER_STREAMING) {
        ready.tryAcquire(50, TimeUnit.MILLISECONDS);
      }
      if (done.getCount() == 0) break;
      call.sendMessage(Peer.file(name));
    }
    if (done.getCount() > 0) call.halfClose();
    if (read != null) {
      read.await();
      call.request(1);
    }
    done.await();
    return observation;
  }
}
