/** The harness that starts, pauses, kills and cuts real servers, tested by itself: what it claims, a server shows. */
import { existsSync, readdirSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { binary, find } from '../support/install.ts';
import { startNats } from '../support/nats.ts';
import {
  freePort,
  type Guard,
  HOST,
  isAlive,
  Launched,
  startServer,
  stopAll,
  sweep,
  waitUntil,
} from '../support/processes.ts';
import { startProxy } from '../support/proxy.ts';
import { type RedisServer, startRedis, startRedisCluster, startReplicatedRedis } from '../support/redis.ts';

/** A plain TCP client. */
class Line {
  received = '';
  closed = false;
  error: string | undefined;
  readonly #socket: Socket;

  constructor(port: number) {
    this.#socket = connect({ port, host: HOST }).setEncoding('utf8').setNoDelay(true);
    this.#socket.on('data', (text: string) => (this.received += text));
    this.#socket.on('error', (error: NodeJS.ErrnoException) => (this.error = error.code));
    this.#socket.on('close', () => (this.closed = true));
    closers.add(() => this.#socket.destroy());
  }

  send(text: string): void {
    this.#socket.write(text);
  }

  /** One round trip to a redis-server. */
  async ping(): Promise<void> {
    const before = this.received.length;
    this.send('PING\r\n');
    await waitUntil(() => this.received.slice(before) === '+PONG\r\n', 'the server answers a ping');
  }
}

const closers = new Set<() => void>();

const refuses = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ port, host: HOST });
    socket.once('connect', () => resolve(false));
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
    closers.add(() => socket.destroy());
  });

/** The yardstick of silence: as long as another server takes for this many answers. */
async function manyRoundTrips(port: number): Promise<void> {
  const other = new Line(port);
  for (let i = 0; i < 50; i++) await other.ping();
}

/** The directories of this process's servers. */
const directories = (): string[] =>
  readdirSync(tmpdir()).filter((name) => name.startsWith(`enclave-test-${process.pid}-`));

const variables = async (url: string): Promise<unknown> => (await fetch(`${url}/varz`)).json();

const clients = async (server: RedisServer): Promise<number> =>
  (await server.cli('CLIENT', 'LIST')).split('\n').length;

/** A write, and the count of replicas that have it: of the same connection, or the count means nothing. */
async function setAndWait(server: RedisServer, answers: string, patienceMs = 5000): Promise<void> {
  const line = new Line(server.port);
  line.send(`SET key value\r\nWAIT 1 ${patienceMs}\r\n`);
  await waitUntil(() => line.received.length >= answers.length, 'the server answers');
  expect(line.received).toBe(answers);
}

const PROCESSES = new URL('../support/processes.ts', import.meta.url).href;

/** A program that starts redis-servers on these ports, and nothing else. */
const starterOf = (ports: readonly number[], guard: Guard): string => `
  import { Launched } from ${JSON.stringify(PROCESSES)};
  for (const port of ${JSON.stringify(ports)}) {
    const args = ['--port', String(port), '--bind', '${HOST}', '--save', ''];
    const server = new Launched(${JSON.stringify(binary('redis-server'))}, args, { guard: '${guard}' });
    console.log('started', server.pid);
  }
`;

afterEach(async () => {
  for (const close of closers) close();
  closers.clear();
  await stopAll();
});

describe('a server', () => {
  test('that is paused does not answer, keeps its connections, and goes on when it is resumed', async () => {
    const [server, other] = await Promise.all([startRedis(), startRedis()]);
    const line = new Line(server.port);
    await line.ping();
    server.pause();
    expect(server).toMatchObject({ running: true, answering: false });
    line.send('ECHO late\r\n');
    await manyRoundTrips(other.port);
    expect(line.received).toBe('+PONG\r\n');
    server.resume();
    await waitUntil(() => line.received.endsWith('late\r\n'), 'the server goes on');
    expect(line.closed).toBe(false);
  });

  test('that is killed resets its connections, refuses new ones, and starts again on its port', async () => {
    const server = await startNats();
    const { pid, port, url } = server;
    const line = new Line(port);
    await waitUntil(() => line.received.startsWith('INFO '), 'a greeting');
    await server.kill();
    expect(server.running).toBe(false);
    expect(await refuses(port)).toBe(true);
    await waitUntil(() => line.closed, 'the connection ends');
    await server.restart();
    expect(server.url).toBe(url);
    expect(server.pid).not.toBe(pid);
    const again = new Line(port);
    await waitUntil(() => again.received.startsWith('INFO '), 'a greeting');
  });

  test('that is paused can be killed, stopped and restarted', async () => {
    const server = await startRedis();
    for (const end of [() => server.kill(), () => server.terminate(), () => server.restart()]) {
      server.pause();
      await end();
      await server.restart();
      expect(await server.cli('PING')).toBe('PONG');
    }
  });

  test('that is stopped leaves no file, may be stopped again, and starts with nothing', async () => {
    const server = await startRedis();
    await server.cli('SET', 'key', 'value');
    expect(directories()).toHaveLength(1);
    await Promise.all([server.stop(), server.stop()]);
    await server.stop();
    expect(directories()).toEqual([]);
    expect(await refuses(server.port)).toBe(true);
    await server.restart();
    expect(await server.cli('EXISTS', 'key')).toBe('0');
  });

  test('is not mistaken for the one that has its port already', async () => {
    const [nats, redis] = await Promise.all([startNats(), startRedis()]);
    await expect(startNats({ port: nats.port })).rejects.toThrow(/address already in use/i);
    await expect(startRedis({ port: redis.port })).rejects.toThrow(/address already in use/i);
    expect(await redis.cli('PING')).toBe('PONG');
  });

  test('takes another port when somebody was faster', async () => {
    const { port } = await startRedis();
    const tried: number[] = [];
    const server = await startServer({
      name: 'redis-server',
      command: binary('redis-server'),
      url: (own) => `redis://${HOST}:${own}`,
      args: (place) => {
        tried.push(tried.length === 0 ? port : place.port);
        return ['--port', String(tried.at(-1)), '--bind', HOST, '--save', ''];
      },
      ready: ({ output }) => output.includes('Ready to accept'),
    });
    expect(tried).toEqual([port, server.port]);
  });

  test('that cannot start says why', async () => {
    await expect(startRedis({ args: ['--no-such-option', '1'] })).rejects.toThrow(/no-such-option/);
    await expect(startNats({ config: 'no_such_option {' })).rejects.toThrow(/Parse error/);
    expect(directories()).toEqual([]);
  });
});

describe('a nats-server', () => {
  test('takes the text or the file of a configuration, on a port of the harness', async () => {
    const text = 'port: 4222\nmax_payload: 2048\n';
    const first = await startNats({ config: text });
    expect(await variables(first.monitorUrl)).toMatchObject({ port: first.port, max_payload: 2048 });
    const [directory = ''] = directories();
    const second = await startNats({ config: join(tmpdir(), directory, 'nats.conf') });
    expect(await variables(second.monitorUrl)).toMatchObject({ port: second.port, max_payload: 2048 });
  });
});

describe('a redis-server', () => {
  test('that is killed has all that it acknowledged when it starts again', async () => {
    const server = await startRedis();
    for (let i = 0; i < 20; i++) await server.cli('RPUSH', 'list', String(i));
    await server.kill();
    await server.restart();
    expect(await server.cli('LLEN', 'list')).toBe('20');
  });

  test('without an append-only file forgets when it is killed', async () => {
    const server = await startRedis({ appendonly: false });
    await server.cli('SET', 'key', 'value');
    await server.kill();
    await server.restart();
    expect(await server.cli('EXISTS', 'key')).toBe('0');
  });

  test('with a password lets nobody in without it', async () => {
    const server = await startRedis({ password: 'p w' });
    expect(server.url).toBe(`redis://:p%20w@${HOST}:${server.port}`);
    expect(await server.cli('PING')).toBe('PONG');
    const line = new Line(server.port);
    line.send('PING\r\n');
    await waitUntil(() => line.received.startsWith('-NOAUTH'), 'the server refuses');
  });

  test('tells an error from an answer', async () => {
    const server = await startRedis();
    await server.cli('SET', 'key', 'word');
    await expect(server.cli('INCR', 'key')).rejects.toThrow(/not an integer/);
  });
});

describe('a proxy', () => {
  test('passes on both ways and counts', async () => {
    const server = await startRedis();
    const proxy = await startProxy(server.port);
    const line = new Line(proxy.port);
    await line.ping();
    expect(proxy).toMatchObject({ connections: 1, bytes: { toTarget: 6, fromTarget: 7 } });
    line.send('QUIT\r\n');
    await waitUntil(() => line.closed && proxy.connections === 0, 'the end is passed on');
    expect(line.error).toBeUndefined();
  });

  test('carries more than the buffers hold', async () => {
    const server = await startRedis({ appendonly: false });
    const proxy = await startProxy(server.port);
    const line = new Line(proxy.port);
    const size = 16_000_000;
    proxy.stall();
    line.send(`ECHO ${'x'.repeat(1000)}\r\nSET big ${'y'.repeat(60_000)}\r\n`);
    line.send('GET big\r\n'.repeat(Math.ceil(size / 60_000)));
    proxy.resume();
    await waitUntil(() => line.received.length > size, 'all of it arrives');
    expect(proxy.bytes.fromTarget).toBe(line.received.length);
  });

  test('that is cut resets connections and refuses new ones until it is restored', async () => {
    const server = await startRedis();
    const proxy = await startProxy(server.port);
    const line = new Line(proxy.port);
    await line.ping();
    proxy.cut();
    proxy.cut();
    await waitUntil(() => line.closed, 'the connection ends');
    expect(line.error).toBe('ECONNRESET');
    expect(proxy.connections).toBe(0);
    expect(await refuses(proxy.port)).toBe(true);
    await waitUntil(async () => (await clients(server)) === 1, 'the server has only the asking client');
    await Promise.all([proxy.restore(), proxy.restore()]);
    await new Line(proxy.port).ping();
  });

  test('that is stalled holds what was sent, and lets it go in order when it is resumed', async () => {
    const [server, other] = await Promise.all([startRedis(), startRedis()]);
    const proxy = await startProxy(server.port);
    const old = new Line(proxy.port);
    await old.ping();
    proxy.stall();
    const young = new Line(proxy.port);
    old.send('RPUSH list 1\r\n');
    old.send('RPUSH list 2\r\n');
    young.send('PING\r\n');
    await manyRoundTrips(other.port);
    expect(await server.cli('EXISTS', 'list')).toBe('0');
    expect([old.received, young.received]).toEqual(['+PONG\r\n', '']);
    proxy.resume();
    await waitUntil(() => old.received.endsWith(':1\r\n:2\r\n'), 'the old connection goes on');
    await waitUntil(() => young.received === '+PONG\r\n', 'the young connection goes on');
    expect([old.closed, young.closed]).toEqual([false, false]);
  });

  test('that is stalled one way has requests carried out of which nobody hears', async () => {
    const [server, other] = await Promise.all([startRedis(), startRedis()]);
    const proxy = await startProxy(server.port);
    const line = new Line(proxy.port);
    await line.ping();
    proxy.stall('fromTarget');
    line.send('SET key value\r\n');
    await waitUntil(async () => (await server.cli('GET', 'key')) === 'value', 'it is carried out');
    await manyRoundTrips(other.port);
    expect(line.received).toBe('+PONG\r\n');
    proxy.cut();
    await waitUntil(() => line.closed, 'the connection ends');
    expect(line.received).toBe('+PONG\r\n');
  });

  test('leads elsewhere, and has old connections end', async () => {
    const [one, two] = await Promise.all([startRedis(), startRedis()]);
    await two.cli('SET', 'name', 'two');
    const proxy = await startProxy(one.port);
    const line = new Line(proxy.port);
    await line.ping();
    proxy.target(two.port);
    await waitUntil(() => line.closed, 'the old connection ends');
    const young = new Line(proxy.port);
    young.send('GET name\r\n');
    await waitUntil(() => young.received.includes('two'), 'the other server answers');
  });

  test('to a server that is down ends what it accepted', async () => {
    const proxy = await startProxy(await freePort());
    const line = new Line(proxy.port);
    await waitUntil(() => line.closed, 'the connection ends');
    expect(proxy.connections).toBe(0);
  });

  test('that is stopped stays so', async () => {
    const server = await startRedis();
    const proxy = await startProxy(server.port);
    await proxy.stop();
    await proxy.stop();
    expect(await refuses(proxy.port)).toBe(true);
    await expect(proxy.restore()).rejects.toThrow(/stopped/);
  });
});

describe('a replicated Redis', () => {
  test('goes on with the data behind the same address when its master is killed', async () => {
    const redis = await startReplicatedRedis();
    const old = redis.master;
    await setAndWait(old, '+OK\r\n:1\r\n');
    const line = new Line(redis.port);
    await line.ping();
    await old.kill();
    const next = await redis.failOver();
    expect(next).toBe(redis.master);
    expect(redis).toMatchObject({ replicas: [], former: [old] });
    await waitUntil(() => line.closed, 'the old connection ends');
    const young = new Line(redis.port);
    young.send('GET key\r\nSET key other\r\n');
    await waitUntil(() => young.received === '$5\r\nvalue\r\n+OK\r\n', 'the replica serves the address');

    await redis.rejoin();
    expect(redis.replicas).toEqual([old]);
    expect(await old.cli('GET', 'key')).toBe('other');
    await setAndWait(redis.master, '+OK\r\n:1\r\n');
  });

  test('counts no paused replica, and does not promote it', async () => {
    const redis = await startReplicatedRedis();
    redis.pauseReplica();
    await setAndWait(redis.master, '+OK\r\n:0\r\n', 50);
    await redis.master.kill();
    await expect(redis.failOver()).rejects.toThrow(/no replica that answers/);
  });

  test('promotes the replica that has seen most, and the others follow it', async () => {
    const redis = await startReplicatedRedis({ replicas: 2 });
    const [behind, ahead] = redis.replicas;
    redis.pauseReplica(0);
    await setAndWait(redis.master, '+OK\r\n:1\r\n');
    await redis.master.kill();
    expect(await redis.failOver()).toBe(ahead);
    expect(await ahead?.cli('GET', 'key')).toBe('value');
    await redis.resumeReplica(0);
    await redis.inSync();
    expect(await behind?.cli('GET', 'key')).toBe('value');
  });

  test('of which the master only slept has two masters, of which the address knows one', async () => {
    const redis = await startReplicatedRedis();
    const old = redis.master;
    old.pause();
    await redis.failOver();
    old.resume();
    expect(await old.cli('ROLE')).toMatch(/^master/);
    await old.cli('SET', 'key', 'lost');
    const line = new Line(redis.port);
    line.send('EXISTS key\r\n');
    await waitUntil(() => line.received === ':0\r\n', 'the address leads to the new master');
  });
});

describe('a Redis Cluster', () => {
  test('survives the death of a master, which comes back as a replica', async () => {
    const cluster = await startRedisCluster();
    expect(cluster.nodes).toHaveLength(6);
    const before = await cluster.masters();
    expect(before).toEqual(cluster.nodes.slice(0, 3));
    const holder = await cluster.masterOf('key');
    await setAndWait(holder, '+OK\r\n:1\r\n');

    const dead = await cluster.killMaster(before.indexOf(holder));
    expect(dead).toBe(holder);
    await cluster.waitForFailOver();
    const heir = await cluster.masterOf('key');
    expect(before).not.toContain(heir);
    expect(await heir.cli('GET', 'key')).toBe('value');
    await heir.cli('SET', 'key', 'other');

    await dead.restart();
    await cluster.waitUntilWhole();
    expect(await dead.cli('ROLE')).toMatch(/^slave/);
    expect(await cluster.masters()).toHaveLength(3);
  });

  test('survives a master that sleeps', async () => {
    const cluster = await startRedisCluster();
    const [first] = await cluster.masters();
    first?.pause();
    await cluster.waitForFailOver();
    expect(await cluster.masters()).not.toContain(first);
    first?.resume();
    await cluster.waitUntilWhole();
  });
});

describe('a process', () => {
  test.each<Guard>(['pdeathsig', 'watchdog'])('dies with the one that started it, by %s', async (guard) => {
    const ports = [await freePort(), await freePort()];
    const starter = new Launched(process.execPath, ['--input-type=module', '-e', starterOf(ports, guard)]);
    const pids = (): number[] => [...starter.output.matchAll(/started (\d+)/g)].map(([, pid]) => Number(pid));
    for (const port of ports) await waitUntil(async () => !(await refuses(port)), 'a server is up');
    await waitUntil(() => pids().length === 2, 'the starter tells the pids');
    const [paused = 0] = pids();
    process.kill(paused, 'SIGSTOP');
    await starter.kill();
    for (const port of ports) await waitUntil(() => refuses(port), 'the server is gone');
  });

  test('that ends takes its watchdog along', async () => {
    const child = new Launched(
      process.execPath,
      ['-e', 'console.log("up"); process.stdin.resume(); setInterval(() => {}, 1e6)'],
      {
        guard: 'watchdog',
      },
    );
    await waitUntil(() => child.output.includes('up'), 'it is up');
    const dog = child.watchdogPid ?? 0;
    expect(isAlive(dog)).toBe(true);
    await child.terminate();
    await waitUntil(() => !isAlive(dog), 'the watchdog is gone');
  });

  test('keeps the last 200 lines that it printed', async () => {
    const child = new Launched(process.execPath, [
      '-e',
      'for (let i = 0; i < 1000; i++) console.log("line " + i)',
    ]);
    await child.closed;
    const printed = child.output.trim().split('\n');
    expect([printed.length, printed[0], printed.at(-1)]).toEqual([200, 'line 800', 'line 999']);
  });

  test('that ignores SIGTERM is killed after its grace', async () => {
    const child = new Launched(process.execPath, [
      '-e',
      'process.on("SIGTERM", () => {}); setInterval(() => {}, 1e6); console.log("up")',
    ]);
    await waitUntil(() => child.output.includes('up'), 'it is up');
    await child.terminate(20);
    expect(child.running).toBe(false);
  });

  test('that cannot be started is an error', () => {
    expect(() => new Launched('/no/such/program', [], { guard: 'watchdog' })).toThrow(/cannot be started/);
  });

  test('that was killed has its directories removed by the next run', async () => {
    const starter = new Launched(process.execPath, [
      '--input-type=module',
      '-e',
      `import { temporaryDirectory } from ${JSON.stringify(PROCESSES)};
       console.log('made', temporaryDirectory()); setInterval(() => {}, 1e6);`,
    ]);
    const made = (): string => /made (\S+)/.exec(starter.output)?.[1] ?? '';
    await waitUntil(() => made() !== '', 'it made one');
    sweep();
    expect(existsSync(made())).toBe(true);
    await starter.kill();
    sweep();
    expect(existsSync(made())).toBe(false);
  });
});

test('what never comes true is named, with the last error', async () => {
  const fact = (): boolean => {
    throw new Error('not yet');
  };
  await expect(waitUntil(fact, 'pigs fly', 20)).rejects.toMatchObject({
    message: 'it never came true that pigs fly',
    cause: { message: 'not yet' },
  });
});

test('a program is found where Debian puts it, though PATH does not say so', () => {
  const path = process.env.PATH;
  process.env.PATH = '';
  try {
    expect(find('sh')).toBeUndefined();
    expect(find('no-such-program')).toBeUndefined();
    expect(binary('nats-server')).toMatch(/^\/.+\/nats-server$/);
  } finally {
    process.env.PATH = path;
  }
});
