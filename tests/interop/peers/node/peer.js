// A gRPC client or server in Node: `peer.js grpc|http2 client|server FOLDER`; the line protocol is in
// tests/interop/protocol.py. `grpc` is @grpc/grpc-js, `http2` is Node's own module with gRPC's framing by hand.
'use strict';
const readline = require('readline');
const { answer } = require('./answer');
const { run } = require('./scenario');

const [kind, role, folder] = process.argv.slice(2);
const stack = require(kind === 'grpc' ? './grpcjs' : './http2stack');
const say = (object) => process.stdout.write(JSON.stringify(object) + '\n');

if (role === 'server') {
  stack.serve((call) => answer(call, folder)).then((port) => say({ port }));
} else {
  const lines = readline.createInterface({ input: process.stdin });
  (async () => {
    for await (const line of lines) {
      const scenario = JSON.parse(line);
      const client = stack.connect(scenario, folder);
      say(await run(client, scenario));
      client.close();
    }
    process.exit(0);
  })();
}
