// An HTTP server and a worker thread that computes.
const http = require('http');
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
if (!isMainThread) {
  let sum = 0;
  for (let i = 0; i <= workerData; i++) sum += i;
  parentPort.postMessage(sum);
} else {
  http.createServer((request, response) => {
    if (request.url === '/sum') {
      const worker = new Worker(__filename, { workerData: 1000000 });
      worker.on('message', (sum) => response.end(String(sum)));
    } else {
      response.end('hello ' + request.url);
    }
  }).listen(8000, () => console.log('listening'));
}
