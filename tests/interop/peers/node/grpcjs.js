// @grpc/grpc-js as a client and as a server.
'use strict';
const { once } = require('events');
const grpc = require('@grpc/grpc-js');
const { decode, digest, file, pairs } = require('./values');

const UNLIMITED = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };
const METHODS = [
  '/inference.GRPCInferenceService/ModelInfer', '/inference.GRPCInferenceService/ModelStreamInfer',
  '/interop.Peer/Call', '/interop.Peer/Ending',
];
const same = (bytes) => bytes;

function entriesOf(metadata) {
  return Object.keys(metadata.getMap()).flatMap((key) => metadata.get(key).map((value) => [key, value]));
}

function metadataOf(entries) {
  const metadata = new grpc.Metadata();
  for (const [key, value] of entries) metadata.add(key, value);
  return metadata;
}

async function write(stream, message) {
  if (!stream.write(message)) {
    await Promise.race([once(stream, 'drain'), once(stream, 'close'), once(stream, 'status')]).catch(() => {});
  }
}

function connect(scenario, folder) {
  const options = { ...UNLIMITED, 'grpc.use_local_subchannel_pool': 1 };
  if (scenario.call.compress) options['grpc.default_compression_algorithm'] = 2; // gzip
  const client = new grpc.Client(scenario.target, grpc.credentials.createInsecure(), options);
  return { close: () => client.close(), call: (call, reading) => makeCall(client, folder, call, reading) };
}

function begin(client, folder, call, onMessage) {
  const metadata = metadataOf(call.metadata.map(([key, value]) => [key, decode(key, value)]));
  metadata.setOptions({ waitForReady: Boolean(call.wait_for_ready) });
  const shared = [call.method, same, same];
  const options = { deadline: Date.now() + call.timeout_ms };
  const callback = (error, message) => { if (!error) onMessage(message); };
  switch (call.kind) {
    case 'unary': return client.makeUnaryRequest(...shared, file(folder, call.send[0]), metadata, options, callback);
    case 'down': return client.makeServerStreamRequest(...shared, file(folder, call.send[0]), metadata, options);
    case 'up': return client.makeClientStreamRequest(...shared, metadata, options, callback);
    default: return client.makeBidiStreamRequest(...shared, metadata, options);
  }
}

async function makeCall(client, folder, call, reading) {
  const messages = [];
  let initial = [];
  const stream = begin(client, folder, call, (message) => messages.push(digest(message)));
  stream.on('metadata', (metadata) => { initial = entriesOf(metadata); });
  stream.on('error', () => {});
  const status = new Promise((done) => stream.on('status', done));
  if (call.kind === 'up' || call.kind === 'both') {
    (async () => {
      for (const name of call.send) await write(stream, file(folder, name));
      stream.end();
    })();
  }
  if (call.kind === 'down' || call.kind === 'both') {
    if (reading) await reading;
    const ended = once(stream, 'end').catch(() => {});
    let cancelled = false;
    stream.on('data', (message) => {
      if (!cancelled) messages.push(digest(message));
      if (messages.length === call.cancel_after && !cancelled) {
        cancelled = true;
        stream.cancel();
      }
    });
    await ended;
  }
  const { code, details, metadata } = await status;
  return { messages, code, text: code ? details : '', initial: pairs(initial), trailing: pairs(entriesOf(metadata)) };
}

function serve(answer) {
  const server = new grpc.Server(UNLIMITED);
  const handle = (stream) => {
    const call = {
      metadata: entriesOf(stream.metadata),
      deadline: Number.isFinite(Number(stream.getDeadline())),
      messages: stream.iterator({ destroyOnReturn: false }),
      gone: false,
      initial: (entries) => stream.sendMetadata(metadataOf(entries)),
      send: (message) => write(stream, message),
      finish: (code, text, entries) =>
        code ? stream.emit('error', { code, details: text, metadata: metadataOf(entries) }) : stream.end(metadataOf(entries)),
    };
    call.cancelled = new Promise((done) => stream.on('cancelled', () => { call.gone = true; done(); }));
    answer(call).catch(() => {}); // the call is gone
  };
  for (const method of METHODS) server.register(method, handle, same, same, 'bidi');
  return new Promise((done, failed) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) =>
      error ? failed(error) : done(port)));
}

module.exports = { connect, serve };
