// Node's cluster: `node node.js KIND PORT WORKERS POLICY`. KIND is echo (the 16 bytes of src/protocol.rs) or web.
// On HUP it does what Node's documentation and pm2 do: starts as many new workers, and disconnects the old ones when they
// listen.
'use strict';
const cluster = require('node:cluster');
const http = require('node:http');
const net = require('node:net');

const [kind, port, workers, policy] = process.argv.slice(2);

if (cluster.isPrimary) {
  cluster.schedulingPolicy = policy === 'none' ? cluster.SCHED_NONE : cluster.SCHED_RR;
  for (let i = 0; i < Number(workers); i++) cluster.fork();
  process.on('SIGHUP', () => {
    const old = Object.values(cluster.workers);
    for (const worker of old) cluster.fork().once('listening', () => worker.disconnect());
  });
} else if (kind === 'web') {
  const body = String(process.pid);
  const server = http.createServer((request, response) => {
    response.writeHead(200, { 'content-type': 'text/plain; charset=utf-8', 'content-length': body.length });
    response.end(body);
  });
  server.keepAliveTimeout = 0;
  server.listen(Number(port), '127.0.0.1');
} else {
  const answer = String(process.pid).padEnd(16);
  net.createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', (request) => {
      const wish = request.toString('latin1', 5, 7);
      if (wish === 'bl') {
        const ms = Number(request.toString('latin1', 11, 15));
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
      }
      if (wish === 'ho') socket.write(answer);
      else socket.end(answer);
    });
  }).listen(Number(port), '127.0.0.1');
}
