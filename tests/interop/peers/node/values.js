// Messages and metadata as the line protocol writes them.
'use strict';
const { createHash } = require('crypto');
const fs = require('fs');
const path = require('path');

const sha = (content) => createHash('sha256').update(content).digest();
const digest = (message) => `${message.length}:${sha(message).toString('hex')}`.slice(0, 24);
const file = (folder, name) => fs.readFileSync(path.join(folder, name));
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const decode = (key, value) => (key.endsWith('-bin') ? Buffer.from(value, 'base64') : value);

// Entries are [key, string or Buffer]; as JSON they are sorted by key, with binary values in base64.
const pairs = (entries) =>
  entries
    .map(([key, value]) => [key, Buffer.isBuffer(value) ? value.toString('base64') : value])
    .sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));

module.exports = { sha, digest, file, sleep, decode, pairs };
