// What a server does with a call is asked for by the call's own metadata, `do-...`; see tests/interop/protocol.py.
'use strict';
const { createHash } = require('crypto');
const { file, sha, sleep } = require('./values');

const gates = new Map();
const endings = new Map();

function gate(name) {
  if (!gates.has(name)) {
    let open;
    const opened = new Promise((done) => { open = done; });
    gates.set(name, { opened, open });
  }
  return gates.get(name);
}

// A call: metadata (entries), deadline (boolean), messages (async iterable), cancelled (promise), gone (boolean), and
// initial(entries), send(message), finish(code, text, entries); of HTTP/2
// itself flush(message), reset(code), truncate(message) and plain(status, type, body).
async function answer(call, folder) {
  const instructions = Object.fromEntries(call.metadata);
  if (instructions['do-ending']) return ending(call, instructions['do-ending']);
  let finished = false;
  call.cancelled.then(() => { if (instructions['do-tag']) endings.set(instructions['do-tag'], finished ? 'finished' : 'cancelled'); });
  await respond(call, instructions, folder);
  if (instructions['do-tag'] && !call.gone) { finished = true; endings.set(instructions['do-tag'], 'finished'); }
}

async function ending(call, tag) {
  for (let i = 0; i < 100 && !endings.has(tag); i++) await sleep(50);
  call.initial([]);
  await call.send(Buffer.from(endings.get(tag) || 'unknown'));
  call.finish(0, '', []);
}

async function respond(call, instructions, folder) {
  if (instructions['do-http']) {
    return call.plain(Number(instructions['do-http']), instructions['do-type'], file(folder, instructions['do-answer']));
  }
  if (instructions['do-open']) gate(instructions['do-open']).open();
  const entries = call.metadata.filter(([key]) => key.startsWith('x-'));
  if (!instructions['do-bare']) call.initial(entries);
  if (instructions['do-gate']) await Promise.race([gate(instructions['do-gate']).opened, call.cancelled]);
  const send = () => call.send(file(folder, instructions['do-answer']));
  const hashes = createHash('sha256');
  let [count, bytes] = [0, 0];
  if (!instructions['do-early']) {
    for await (const message of call.messages) {
      count += 1;
      bytes += message.length;
      hashes.update(sha(message));
      if (instructions['do-each']) await send();
    }
  }
  if (instructions['do-wait-ms']) await Promise.race([sleep(Number(instructions['do-wait-ms'])), call.cancelled]);
  if (!instructions['do-bare'] && !instructions['do-each'] && !instructions['do-early']) {
    for (let remaining = Number(instructions['do-count'] || 1); remaining > 0 && !call.gone; remaining--) {
      if (instructions['do-reset'] && remaining === 1) {
        await call.flush(file(folder, instructions['do-answer'])); // the reset goes right behind it
        return call.reset(Number(instructions['do-reset']));
      }
      if (instructions['do-truncate']) await call.truncate(file(folder, instructions['do-answer']));
      else await send();
      if (instructions['do-pause-ms']) await sleep(Number(instructions['do-pause-ms']));
    }
  }
  if (call.gone) return;
  const sums = `${count}:${bytes}:${hashes.digest('hex').slice(0, 12)}`;
  const trailers = [...entries, ['received-messages', sums], ['has-deadline', String(call.deadline)]];
  trailers.push(['answer-bin', Buffer.from([0, 255, 128])]);
  const failed = Number(instructions['do-status'] || 0);
  call.finish(failed, failed ? 'details: 100% schlecht, ü and \n more' : '', trailers);
}

module.exports = { answer };
