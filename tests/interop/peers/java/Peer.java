// A gRPC client or server in Java: `Peer client FOLDER` or `Peer server FOLDER`; tests/interop/protocol.py has the line
// protocol.

import com.google.gson.Gson;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;

final class Peer {
  static final Gson JSON = new Gson();
  static Path folder;

  /** Leaves messages as they are. */
  static final class Raw implements MethodDescriptor.Marshaller<byte[]> {
    @Override
    public InputStream stream(byte[] message) {
      return new ByteArrayInputStream(message);
    }

    @Override
    public byte[] parse(InputStream stream) {
      try {
        return stream.readAllBytes();
      } catch (IOException error) {
        throw new UncheckedIOException(error);
      }
    }
  }

  static MethodDescriptor<byte[], byte[]> method(String path, String kind) {
    MethodDescriptor.MethodType type =
        switch (kind) {
          case "unary" -> MethodDescriptor.MethodType.UNARY;
          case "down" -> MethodDescriptor.MethodType.SERVER_STREAMING;
          case "up" -> MethodDescriptor.MethodType.CLIENT_STREAMING;
          default -> MethodDescriptor.MethodType.BIDI_STREAMING;
        };
    return MethodDescriptor.newBuilder(new Raw(), new Raw()).setFullMethodName(path.substring(1)).setType(type).build();
  }

  static byte[] file(String name) {
    try {
      return Files.readAllBytes(folder.resolve(name));
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  static byte[] sha(byte[] content) {
    try {
      return MessageDigest.getInstance("SHA-256").digest(content);
    } catch (java.security.NoSuchAlgorithmException error) {
      throw new IllegalStateException(error);
    }
  }

  static String hex(byte[] content) {
    StringBuilder text = new StringBuilder();
    for (byte part : content) text.append(String.format("%02x", part));
    return text.toString();
  }

  static String digest(byte[] message) {
    return (message.length + ":" + hex(sha(message))).substring(0, 24);
  }

  static void put(Metadata metadata, String key, String value) {
    if (key.endsWith("-bin")) {
      metadata.put(Metadata.Key.of(key, Metadata.BINARY_BYTE_MARSHALLER), Base64.getDecoder().decode(value));
    } else {
      metadata.put(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER), value);
    }
  }

  /** Metadata as JSON: sorted by key, binary values in base64. */
  static List<String[]> pairs(Metadata metadata) {
    List<String[]> all = new ArrayList<>();
    if (metadata == null) return all;
    for (String key : new TreeSet<>(metadata.keys())) {
      if (key.startsWith(":")) continue; // of an HTTP error
      if (key.endsWith("-bin")) {
        for (byte[] value : metadata.getAll(Metadata.Key.of(key, Metadata.BINARY_BYTE_MARSHALLER))) {
          all.add(new String[] {key, Base64.getEncoder().encodeToString(value)});
        }
      } else {
        for (String value : metadata.getAll(Metadata.Key.of(key, Metadata.ASCII_STRING_MARSHALLER))) {
          all.add(new String[] {key, value});
        }
      }
    }
    return all;
  }

  public static void main(String[] arguments) throws Exception {
    folder = Path.of(arguments[1]);
    if (arguments[0].equals("server")) {
      System.out.println(JSON.toJson(Map.of("port", Server.serve())));
      Thread.currentThread().join();
    }
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      System.out.println(JSON.toJson(Client.run(JSON.fromJson(line, Client.Scenario.class))));
    }
    System.exit(0);
  }
}
