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
// initial(entries), send(message), finish(code, text, entries); where it can reset, flush(message) and reset(code).
async function answer(call, folder) {
  const asked = Object.fromEntries(call.metadata);
  if (asked['do-ending']) return ending(call, asked['do-ending']);
  let finished = false;
  call.cancelled.then(() => { if (asked['do-tag']) endings.set(asked['do-tag'], finished ? 'finished' : 'cancelled'); });
  await respond(call, asked, folder);
  if (asked['do-tag'] && !call.gone) { finished = true; endings.set(asked['do-tag'], 'finished'); }
}

async function ending(call, tag) {
  for (let i = 0; i < 100 && !endings.has(tag); i++) await sleep(50);
  call.initial([]);
  await call.send(Buffer.from(endings.get(tag) || 'unknown'));
  call.finish(0, '', []);
}

async function respond(call, asked, folder) {
  if (asked['do-open']) gate(asked['do-open']).open();
  const entries = call.metadata.filter(([key]) => key.startsWith('x-'));
  if (!asked['do-bare']) call.initial(entries);
  if (asked['do-gate']) await Promise.race([gate(asked['do-gate']).opened, call.cancelled]);
  const send = () => call.send(file(folder, asked['do-answer']));
  const hashes = createHash('sha256');
  let [count, bytes] = [0, 0];
  if (!asked['do-early']) {
    for await (const message of call.messages) {
      count += 1;
      bytes += message.length;
      hashes.update(sha(message));
      if (asked['do-each']) await send();
    }
  }
  if (asked['do-wait-ms']) await Promise.race([sleep(Number(asked['do-wait-ms'])), call.cancelled]);
  if (!asked['do-bare'] && !asked['do-each'] && !asked['do-early']) {
    for (let left = Number(asked['do-count'] || 1); left > 0 && !call.gone; left--) {
      if (asked['do-reset'] && left === 1) {
        await call.flush(file(folder, asked['do-answer'])); // the reset goes right behind it
        return call.reset(Number(asked['do-reset']));
      }
      await send();
      if (asked['do-pause-ms']) await sleep(Number(asked['do-pause-ms']));
    }
  }
  if (call.gone) return;
  const sums = `${count}:${bytes}:${hashes.digest('hex').slice(0, 12)}`;
  const trailers = [...entries, ['seen-messages', sums], ['seen-deadline', String(call.deadline)]];
  trailers.push(['seen-bin', Buffer.from([0, 255, 128])]);
  const failed = Number(asked['do-status'] || 0);
  call.finish(failed, failed ? 'details: 100% schlecht, ü and \n more' : '', trailers);
}

module.exports = { answer };
