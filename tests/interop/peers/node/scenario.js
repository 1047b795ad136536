// One scenario on one connection: calls in the background, then the call itself as often as it is to be made.
'use strict';
const { sleep } = require('./values');

async function run(client, scenario) {
  let read; // called when what is left unread is to be read
  const reading = new Promise((done) => { read = done; });
  const background = scenario.background.map((call) => client.call(call, reading));
  if (background.length) await sleep(scenario.settle_ms);
  const outcomes = await repeat(client, scenario);
  read();
  return { background: await Promise.all(background), outcomes };
}

async function repeat(client, { call, repeat: times, rate, parallel }) {
  const counts = new Map();
  const begin = performance.now();
  let next = 0;
  const work = async () => {
    while (next < times) {
      const number = next++;
      const early = rate ? begin + (number * 1000) / rate - performance.now() : 0;
      if (early > 0) await sleep(early);
      const line = JSON.stringify(await client.call(call, null));
      counts.set(line, (counts.get(line) || 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: parallel }, work));
  return [...counts].map(([line, count]) => [JSON.parse(line), count]);
}

module.exports = { run };
