// Node's own HTTP/2 as a client and as a server, gRPC's framing by hand.
'use strict';
const { once } = require('events');
const http2 = require('http2');
const zlib = require('zlib');
const { decode, digest, file, pairs } = require('./values');

const MEMORY = 1000; // megabytes of a connection that wait to be written, beyond which Node ends streams

function frame(message, compress) {
  const content = compress ? zlib.gzipSync(message) : message;
  const head = Buffer.alloc(5);
  head[0] = compress ? 1 : 0;
  head.writeUInt32BE(content.length, 1);
  return Buffer.concat([head, content]);
}

// The messages of a readable stream, which is read no faster than they are taken.
async function* deframe(stream) {
  let parts = [];
  let size = 0;
  let needed = 5;
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) {
    parts.push(chunk);
    size += chunk.length;
    while (size >= needed) {
      let content = parts.length === 1 ? parts[0] : Buffer.concat(parts);
      const end = 5 + content.readUInt32BE(1);
      needed = end;
      parts = [content];
      if (size < end) break;
      const message = content.subarray(5, end);
      yield content[0] ? zlib.gunzipSync(message) : message;
      content = content.subarray(end);
      parts = [content];
      size = content.length;
      needed = 5;
    }
  }
  if (size) throw new Error(TRUNCATED);
}

async function* body(stream) {
  const parts = [];
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) parts.push(chunk);
  yield Buffer.concat(parts);
}

// Entries as headers: a key that is repeated has an array, a binary value is base64 without padding.
function headersOf(entries) {
  const headers = {};
  for (const [key, value] of entries) {
    const text = Buffer.isBuffer(value) ? value.toString('base64').replace(/=+$/, '') : value;
    headers[key] = key in headers ? [].concat(headers[key], text) : text;
  }
  return headers;
}

const TRUNCATED = 'the last message is truncated';
const GRPC = /^application\/grpc(\+|$)/;
const OWN = /^(:.*|content-type|te|date|grpc-(status|message|timeout|encoding|accept-encoding))$/;

function entriesOf(rawHeaders) {
  const entries = [];
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const key = rawHeaders[i];
    if (!OWN.test(key)) entries.push([key, decode(key, rawHeaders[i + 1])]);
  }
  return entries;
}

async function write(stream, bytes) {
  if (!stream.write(bytes)) await Promise.race([once(stream, 'drain'), once(stream, 'close')]).catch(() => {});
}

function connect(scenario, folder) {
  const session = http2.connect(`http://${scenario.target}`, { maxSessionMemory: MEMORY });
  session.on('error', () => {});
  return { close: () => session.destroy(), call: (call, reading) => makeCall(session, folder, call, reading) };
}

async function makeCall(session, folder, call, reading) {
  const type = Object.fromEntries(call.metadata)['content-type'] || 'application/grpc';
  const observation = { messages: [], code: -1, text: '', initial: [], trailing: [] };
  const close = (code, text) => { if (observation.code < 0) Object.assign(observation, { code, text }); };
  let stream;
  try {
    stream = session.request({
      ':method': 'POST', ':path': call.method, 'content-type': 'application/grpc', te: 'trailers',
      'grpc-timeout': `${call.timeout_ms}m`, ...(call.compress ? { 'grpc-encoding': 'gzip' } : {}),
      ...headersOf(call.metadata.map(([key, value]) => [key, decode(key, value)])),
    });
  } catch (error) {
    return { ...observation, code: 14, text: error.code };
  }
  const status = (headers) => {
    if (headers['grpc-status'] !== undefined) {
      close(Number(headers['grpc-status']), decodeURIComponent(headers['grpc-message'] || ''));
    }
  };
  let isGrpc = true;
  const responded = new Promise((done) => stream.once('response', done));
  stream.on('response', (headers, flags, raw) => {
    isGrpc = headers[':status'] === 200 && GRPC.test(headers['content-type']);
    if (!isGrpc) close(headers[':status'], headers['content-type']);
    observation[headers['grpc-status'] === undefined ? 'initial' : 'trailing'] = pairs(entriesOf(raw));
    status(headers);
  });
  stream.on('trailers', (headers, flags, raw) => {
    observation.trailing = pairs(entriesOf(raw));
    status(headers);
  });
  stream.on('error', () => {});
  const closed = new Promise((done) => stream.once('close', done));
  const deadline = setTimeout(() => { close(4, 'deadline'); stream.close(8); }, call.timeout_ms);
  (async () => {
    for (const name of call.send) {
      const message = file(folder, name);
      await write(stream, GRPC.test(type) ? frame(message, call.compress) : message);
    }
    stream.end();
  })();
  if (reading) await reading;
  try {
    await Promise.race([responded, closed]);
    for await (const message of isGrpc ? deframe(stream) : body(stream)) {
      observation.messages.push(digest(message));
      if (observation.messages.length === call.cancel_after) {
        close(1, 'cancelled');
        stream.close(8);
        break;
      }
    }
  } catch (error) { // of a reset, the code is read below
    if (error.message === TRUNCATED) Object.assign(observation, { code: 13, text: TRUNCATED });
  }
  if (observation.code >= 0 && !stream.closed) stream.close(8); // answered before everything was sent
  await closed;
  clearTimeout(deadline);
  close(13, `reset with ${stream.rstCode}`);
  return observation;
}

function serve(answer) {
  const server = http2.createServer({ maxSessionMemory: MEMORY });
  server.on('session', (session) => session.on('error', () => {}));
  server.on('stream', (stream, headers, flags, raw) => {
    const status = (code, text) => ({ 'grpc-status': String(code), ...(text ? { 'grpc-message': encodeURIComponent(text) } : {}) });
    const ordinary = { ':status': 200, 'content-type': 'application/grpc' };
    const compress = headers['grpc-encoding'] === 'gzip';
    let trailers = null;
    let hasHeaders = false;
    const call = {
      metadata: entriesOf(raw),
      deadline: headers['grpc-timeout'] !== undefined,
      messages: deframe(stream),
      gone: false,
      initial(entries) {
        hasHeaders = true;
        const encoding = compress ? { 'grpc-encoding': 'gzip' } : {};
        stream.respond({ ...ordinary, ...encoding, ...headersOf(entries) }, { waitForTrailers: true });
      },
      send: (message) => write(stream, frame(message, compress)),
      finish(code, text, entries) {
        trailers = { ...status(code, text), ...headersOf(entries) };
        if (hasHeaders) stream.end();
        else stream.respond({ ...ordinary, ...trailers }, { endStream: true });
      },
      flush: (message) => new Promise((done) => stream.write(frame(message, compress), done)),
      truncate: (message) => write(stream, frame(message, compress).subarray(0, -10)),
      plain(httpStatus, type, body) {
        stream.resume();
        stream.respond({ ':status': httpStatus, 'content-type': type });
        stream.end(body);
      },
      reset: (code) => stream.close(code),
    };
    stream.on('wantTrailers', () => stream.sendTrailers(trailers || status(0, '')));
    stream.on('error', () => {});
    call.cancelled = new Promise((done) => stream.on('close', () => { call.gone = true; done(); }));
    answer(call).catch(() => {}); // the call is gone
  });
  return new Promise((done) => server.listen(0, '127.0.0.1', () => done(server.address().port)));
}

module.exports = { connect, serve };
