// BullMQ's side: its worker (`work`), and who sends to it (the words of inside.py).

const fs = require("fs");
const http = require("http");
const { Queue, QueueEvents, Worker } = require("bullmq");
const IORedis = require("ioredis");

const connect = () => new IORedis(process.env.BENCH_URL, { maxRetriesPerRequest: null });
const slots = fs.openSync(process.env.BENCH_SLOTS, "r+");
const cell = Buffer.alloc(8);
const sleep = (seconds) => new Promise((then) => setTimeout(then, seconds * 1000));
const agent = new http.Agent({ keepAlive: true });

function write(n, value) {
  cell.writeBigInt64LE(value);
  fs.writeSync(slots, cell, 0, 8, 8 * n);
}

function read(n) {
  fs.readSync(slots, cell, 0, 8, 8 * n);
  return cell.readBigInt64LE();
}

// What tasks.py has. The clock is the same: CLOCK_MONOTONIC.
const TASKS = {
  noop: async () => {},
  nap: async ([seconds]) => sleep(seconds),
  stamp: async ([n]) => write(n, process.hrtime.bigint()),
  mark: async ([n, seconds]) => {
    await sleep(seconds);
    write(n, read(n) + 1n);
  },
  park: async ([n, seconds]) => {
    write(n, 1n);
    await sleep(seconds);
  },
  page: ([url]) =>
    new Promise((then, fail) => {
      const request = http.get(url, { agent }, (response) => {
        let size = 0;
        response.on("data", (part) => (size += part.length));
        response.on("end", () => then(size));
      });
      request.on("error", fail);
    }),
};

async function fill(queue, task, count, args) {
  for (let first = 0; first < count; first += 1000) {
    const size = Math.min(1000, count - first);
    await queue.addBulk(
      Array.from({ length: size }, (_, n) => ({ name: task, data: args(first + n) })),
    );
  }
}

function sent(count, began) {
  const { userCPUTime, systemCPUTime } = process.resourceUsage();
  const peak = /VmHWM:\s+(\d+)/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1];
  return {
    sent: count,
    seconds: (performance.now() - began) / 1000,
    cpu_us: (userCPUTime + systemCPUTime) / count,
    peak_mb: (peak * 1024) / 1e6,
  };
}

async function latency(queue, count, gap, idle) {
  const events = new QueueEvents("bench", { connection: connect() });
  await events.waitUntilReady();
  const call = async (n) => {
    const job = await queue.add("stamp", [n]);
    await job.waitUntilFinished(events, 60000);
  };
  await call(count);
  await sleep(idle);
  const seen = [];
  for (let n = 0; n < count; n++) {
    await sleep(gap * (0.5 + Math.random()));
    const began = process.hrtime.bigint();
    await call(n);
    const ended = process.hrtime.bigint();
    seen.push([Number(read(n) - began), Number(ended - began)]);
  }
  return seen;
}

async function enqueue(queue, seconds) {
  for (let n = 0; n < 20; n++) await queue.add("noop", []);
  const began = performance.now();
  let count = 0;
  for (; performance.now() - began < seconds * 1000; count++) await queue.add("noop", []);
  return sent(count, began);
}

async function main([verb, ...words]) {
  if (verb === "work") {
    const concurrency = Number(process.env.BENCH_CONCURRENCY);
    new Worker("bench", (job) => TASKS[job.name](job.data), { connection: connect(), concurrency });
    return;
  }
  const queue = new Queue("bench", { connection: connect() });
  await queue.waitUntilReady();
  const [task, count, ...rest] = words;
  const call = rest.map((word) => JSON.parse(word));
  const began = performance.now();
  if (verb === "fill") {
    await fill(queue, task, Number(count), () => call);
    console.log(JSON.stringify(sent(Number(count), began)));
  } else if (verb === "number") {
    await fill(queue, task, Number(count), (n) => [n, ...call]);
  } else if (verb === "latency") {
    const [many, gap, idle = 0] = words.map(Number);
    console.log(JSON.stringify(await latency(queue, many, gap, idle)));
  } else if (verb === "enqueue") {
    console.log(JSON.stringify(await enqueue(queue, Number(words[0]))));
  } else {
    throw new Error(`not known: ${verb}`);
  }
  process.exit(0);
}

main(process.argv.slice(2));
