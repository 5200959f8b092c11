/** What only a network does to a bus: servers that die or fall silent, links that are cut, strangers, permissions. */
import { createServer, type Socket } from 'node:net';
import { inspect } from 'node:util';
import { createUser } from '@nats-io/nkeys';
import { connect as connectPlain } from '@nats-io/transport-node';
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { Body, Bus } from '../../src/bus/bus.ts';
import { type LinkStatus, NatsLink, type NatsOptions } from '../../src/bus/nats.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { freePort, HOST, Launched } from '../support/processes.ts';
import { startProxy, type TcpProxy } from '../support/proxy.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

async function nats(config?: string): Promise<NatsServer> {
  const server = await startNats({ config });
  ends.push(() => server.stop());
  return server;
}

async function proxyTo(server: NatsServer): Promise<TcpProxy> {
  const proxy = await startProxy(server.port);
  ends.push(() => proxy.stop());
  return proxy;
}

interface TestLink {
  readonly link: NatsLink;
  readonly bus: Bus;
  readonly told: LinkStatus[];
  readonly errors: { readonly error: unknown; readonly subject: string }[];
}

async function open(options: NatsOptions | string): Promise<TestLink> {
  const errors: { error: unknown; subject: string }[] = [];
  const link = await NatsLink.open({
    reconnect: { firstMs: 5, maxMs: 25 },
    pingIntervalMs: 100,
    connectTimeoutMs: 1_000,
    onError: (error, subject) => errors.push({ error, subject }),
    ...(typeof options === 'string' ? { servers: options } : options),
  });
  ends.push(() => link.close());
  const told: LinkStatus[] = [];
  link.onStatus((status) => told.push(status));
  return { link, bus: link.connect(), told, errors };
}

async function plain(server: NatsServer) {
  const connection = await connectPlain({ servers: `${server.host}:${server.port}` });
  ends.push(() => connection.close());
  return connection;
}

const eventually = (fact: () => void): Promise<void> => vi.waitFor(fact, { timeout: 20_000, interval: 5 });
const failure = (code: string): unknown => expect.objectContaining({ name: 'BusError', code });
const typesOf = (told: readonly LinkStatus[]): readonly string[] => told.map(({ type }) => type);
const PATIENT = { timeoutMs: 20_000 };
const IMPATIENT = { timeoutMs: 100 };

function collect(bus: Bus, subject: string): Body[] {
  const bodies: Body[] = [];
  bus.subscribe(subject, ({ body, respond }) => {
    bodies.push(body);
    respond?.({ got: body });
  });
  return bodies;
}

describe('a server that is killed and started again', () => {
  it('has every subscription in force after the flush, old ones and those made while it was away', async () => {
    const server = await nats();
    const [here, there] = [await open(server.url), await open(server.url)];
    const old = collect(there.bus, 'old');
    await there.bus.flush();
    await server.kill();
    await eventually(() => expect([here.link.connected, there.link.connected]).toEqual([false, false]));
    const made = collect(there.bus, 'made.*');
    const flushed = Promise.all([here.bus.flush(), there.bus.flush()]);
    await server.restart();
    await flushed;
    expect([here.link.connected, there.link.connected]).toEqual([true, true]);
    here.bus.publish('old', { n: 1 });
    expect(await here.bus.request('made.up', { n: 2 }, PATIENT)).toEqual({ got: { n: 2 } });
    await eventually(() => expect([old, made]).toEqual([[{ n: 1 }], [{ n: 2 }]]));
    expect(typesOf(there.told)).toEqual(['disconnected', 'connected']);
  });

  it('knows nothing of subscriptions that ended while it was away', async () => {
    const server = await nats();
    const { link, bus } = await open(server.url);
    const subscription = bus.subscribe('gone', ({ respond }) => respond?.({}));
    const drained = bus.subscribe('drained', ({ respond }) => respond?.({}));
    await bus.flush();
    await server.kill();
    await eventually(() => expect(link.connected).toBe(false));
    subscription.unsubscribe();
    await drained.drain();
    await server.restart();
    await bus.flush();
    for (const subject of ['gone', 'drained'])
      await expect(bus.request(subject, {}, PATIENT)).rejects.toEqual(failure('NO_RESPONDERS'));
  });

  it('that stays away ends the link if attempts are limited, and everything is CLOSED', async () => {
    const server = await nats();
    const { link, bus, told } = await open({ servers: server.url, maxReconnectAttempts: 2 });
    bus.subscribe('silent', () => {});
    await bus.flush();
    const answer = bus.request('silent', {}, PATIENT);
    const outcome = expect(answer).rejects.toEqual(failure('CLOSED'));
    await server.kill();
    await outcome;
    expect(typesOf(told)).toEqual(['disconnected', 'closed']);
    expect(() => bus.publish('a', {})).toThrow(failure('CLOSED'));
    expect(() => bus.subscribe('a', () => {})).toThrow(failure('CLOSED'));
    expect(() => link.connect()).toThrow(failure('CLOSED'));
    await expect(bus.flush()).rejects.toEqual(failure('CLOSED'));
    await bus.close();
  });

  it('rejects a flush as TIMEOUT if it is away for longer than that may take', async () => {
    const server = await nats();
    const { link, bus } = await open({ servers: server.url, flushTimeoutMs: 50 });
    await server.kill();
    await eventually(() => expect(link.connected).toBe(false));
    await expect(bus.flush()).rejects.toEqual(failure('TIMEOUT'));
  });
});

describe('a link that is cut', () => {
  async function cut() {
    const server = await nats();
    const proxy = await proxyTo(server);
    const [near, far] = [await open(proxy.url('nats')), await open(server.url)];
    const got = collect(far.bus, 'a');
    far.bus.subscribe('silent', () => {});
    await far.bus.flush();
    const lose = async (): Promise<void> => {
      proxy.cut();
      await eventually(() => expect(near.link.connected).toBe(false));
    };
    return { proxy, near, far, got, lose };
  }

  it('loses what is published, neither throwing nor hanging nor sending it later', async () => {
    const { proxy, near, got, lose } = await cut();
    near.bus.publish('a', { n: 1 });
    await near.bus.flush();
    await lose();
    for (let n = 0; n < 1_000; n++) near.bus.publish('a', { lost: n });
    await proxy.restore();
    await near.bus.flush();
    expect(near.link.connected).toBe(true);
    near.bus.publish('a', { n: 2 });
    await eventually(() => expect(got.at(-1)).toEqual({ n: 2 }));
    expect(got).toEqual([{ n: 1 }, { n: 2 }]);
  });

  it('tells for how long the server has been reached, from its return on', async () => {
    const { proxy, near, lose } = await cut();
    const before = near.bus.connectedMs ?? Number.NaN;
    expect(before).toBeGreaterThan(0);
    await eventually(() => expect(near.bus.connectedMs).toBeGreaterThan(before + 100));
    await lose();
    expect(near.bus.connectedMs).toBe(0);
    const restoredAt = performance.now();
    await proxy.restore();
    await near.bus.flush();
    expect(near.bus.connectedMs).toBeLessThanOrEqual(performance.now() - restoredAt);
  });

  it('rejects a new request as DISCONNECTED, which is never sent, and one under way as TIMEOUT', async () => {
    const { proxy, near, got, lose } = await cut();
    const underWay = near.bus.request('silent', {}, { timeoutMs: 1_000 });
    const outcome = expect(underWay).rejects.toEqual(failure('TIMEOUT'));
    await near.bus.flush();
    await lose();
    await expect(near.bus.request('a', { n: 1 }, PATIENT)).rejects.toEqual(failure('DISCONNECTED'));
    await expect(near.bus.request('a', { n: 2 }, { timeoutMs: 1 })).rejects.toEqual(failure('DISCONNECTED'));
    await proxy.restore();
    // The link is on its way back: answered, or refused as one that was never sent.
    const meanwhile: unknown = await near.bus
      .request('a', { n: 3 }, PATIENT)
      .catch((error: unknown) => error);
    const answered = !(meanwhile instanceof Error);
    expect(meanwhile).toEqual(answered ? { got: { n: 3 } } : failure('DISCONNECTED'));
    await near.bus.flush();
    expect(await near.bus.request('a', { n: 4 }, PATIENT)).toEqual({ got: { n: 4 } });
    expect(got).toEqual([...(answered ? [{ n: 3 }] : []), { n: 4 }]);
    await outcome;
  });

  it('sends a request that was held back as soon as it is whole again, and waits its full time for the answer', async () => {
    const { proxy, near, lose } = await cut();
    await lose();
    // The link is whole again within a few ms, but how many is not for us to say: some may be too late.
    const restored = proxy.restore();
    const outcomes = await Promise.allSettled(
      Array.from({ length: 50 }, async (_, n) => {
        while (true) {
          const held = !near.link.connected;
          try {
            return { n, held, answer: await near.bus.request('a', { n }, PATIENT) };
          } catch (error) {
            expect(error).toEqual(failure('DISCONNECTED'));
          }
        }
      }),
    );
    await restored;
    expect(outcomes).toEqual(
      Array.from({ length: 50 }, (_, n) => ({
        status: 'fulfilled',
        value: { n, held: true, answer: { got: { n } } },
      })),
    );
  });

  it('lets its handles be drained and closed', async () => {
    const { near, lose } = await cut();
    const subscription = near.bus.subscribe('b', () => {});
    await near.bus.flush();
    await lose();
    await subscription.drain();
    near.bus.subscribe('c', () => {});
    await near.bus.close();
    await near.link.close();
    expect(typesOf(near.told)).toEqual(['disconnected', 'closed']);
  });
});

describe('a server that is paused', () => {
  it('is noticed by its silence, and used again when it is back', async () => {
    const server = await nats();
    const { link, bus } = await open(server.url);
    const before = performance.now();
    server.pause();
    await eventually(() => expect(link.connected).toBe(false));
    // Far from the minutes of TCP; two to three intervals of 100 ms on a machine at rest.
    expect(performance.now() - before).toBeLessThan(5_000);
    expect(performance.now() - before).toBeGreaterThan(100);
    server.resume();
    await bus.flush();
    expect(link.connected).toBe(true);
  });

  it('is left for another, though it never reads what was written to it', async () => {
    const servers = [await nats(), await nats()];
    const proxies = [await proxyTo(servers[0] as NatsServer), await proxyTo(servers[1] as NatsServer)];
    const { link, bus, told } = await open({ servers: proxies.map((proxy) => proxy.url('nats')) });
    const used = proxies.findIndex(({ connections }) => connections > 0);
    servers[used]?.pause();
    const body = { data: 'x'.repeat(1_000_000) };
    for (let n = 0; n < 60; n++) bus.publish('flood', body);
    await eventually(() => expect(typesOf(told)).toEqual(['disconnected', 'connected']));
    expect(told.at(-1)).toEqual({ type: 'connected', server: `${HOST}:${proxies[1 - used]?.port}` });
    expect(link.connected).toBe(true);
    await bus.flush();
    servers[used]?.resume();
  });

  it('does not hold up the closing of the link, and no socket is left', async () => {
    const server = await muteServer();
    const { link, bus } = await open({ servers: server.url, connectTimeoutMs: 600_000 });
    bus.subscribe('a', () => {});
    // The next attempt, which nobody greets.
    await eventually(() => expect([link.connected, server.accepted]).toEqual([false, 2]));
    const flushed = expect(bus.flush()).rejects.toEqual(failure('CLOSED'));
    await link.close();
    await flushed;
    await eventually(() => expect(server.open).toBe(0));
    expect(server.accepted).toBe(2);
  });
});

/** Lets the first client in and is silent from then on: what a paused server is to its clients. */
async function muteServer() {
  const sockets = new Set<Socket>();
  let accepted = 0;
  const listener = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
    socket.resume();
    if (++accepted > 1) return;
    socket.write(
      'INFO {"server_id":"mute","version":"2.9.10","proto":1,"headers":true,"max_payload":1048576}\r\n',
    );
    socket.once('data', () => socket.write('PONG\r\n'));
  });
  const port = await freePort();
  await new Promise<void>((resolve) => listener.listen(port, HOST, resolve));
  ends.push(() => {
    for (const socket of sockets) socket.destroy();
    listener.close();
  });
  return {
    url: `nats://${HOST}:${port}`,
    get accepted() {
      return accepted;
    },
    /** Clients that are connected. */
    get open() {
      return sockets.size;
    },
  };
}

describe('a subscriber in another process', () => {
  async function subscriber(server: NatsServer): Promise<Launched> {
    const script = `
      import { NatsLink } from ${JSON.stringify(new URL('../../src/bus/nats.ts', import.meta.url).href)};
      const link = await NatsLink.open({ servers: ${JSON.stringify(server.url)} });
      const bus = link.connect();
      bus.subscribe('remote', ({ body, respond }) => respond?.({ echo: body }));
      await bus.flush();
      console.log('subscribed');`;
    const child = new Launched(process.execPath, ['--input-type=module', '--eval', script]);
    ends.push(() => child.kill());
    await eventually(() => expect(child.output).toContain('subscribed'));
    return child;
  }

  it('still counts as one while it is paused, and no more soon after it was killed', async () => {
    // Its server must not take the pause for its death.
    const server = await nats('ping_interval: "60s"\n');
    const { bus } = await open(server.url);
    const child = await subscriber(server);
    expect(await bus.request('remote', { n: 1 }, PATIENT)).toEqual({ echo: { n: 1 } });
    child.signal('SIGSTOP');
    await expect(bus.request('remote', { n: 2 }, IMPATIENT)).rejects.toEqual(failure('TIMEOUT'));
    child.signal('SIGCONT');
    expect(await bus.request('remote', { n: 3 }, PATIENT)).toEqual({ echo: { n: 3 } });
    await child.kill();
    await vi.waitFor(
      () => expect(bus.request('remote', {}, IMPATIENT)).rejects.toEqual(failure('NO_RESPONDERS')),
      { timeout: 20_000, interval: 5 },
    );
  });
});

describe('bodies', () => {
  /** `{"data":"…"}` of so many bytes. */
  const sized = (bytes: number): Body => ({ data: 'x'.repeat(bytes - '{"data":""}'.length) });

  it.each([undefined, 'max_payload: 20000\n'])(
    'pass up to the very byte of the server (%j), and one more is refused before it is sent',
    async (config) => {
      const { bus, told } = await open((await nats(config)).url);
      const max = bus.maxPayloadBytes;
      expect(max).toBe(config === undefined ? 1_048_576 : 20_000);
      bus.subscribe('echo', ({ body, respond }) => respond?.(body));
      const answer = await bus.request('echo', sized(max), PATIENT);
      expect(JSON.stringify(answer).length).toBe(max);
      await expect(bus.request('echo', sized(max + 1), PATIENT)).rejects.toEqual(
        failure('PAYLOAD_TOO_LARGE'),
      );
      expect(() => bus.publish('echo', { data: '\u20ac'.repeat(Math.ceil(max / 3)) })).toThrow(
        failure('PAYLOAD_TOO_LARGE'),
      );
      await bus.flush();
      expect(told).toEqual([]);
    },
  );

  it('have the limit of the server that we are connected to now', async () => {
    const large = await nats();
    const { bus } = await open(large.url);
    await large.stop();
    const small = await startNats({ port: large.port, config: 'max_payload: 20000\n' });
    ends.push(() => small.stop());
    await bus.flush();
    expect(bus.maxPayloadBytes).toBe(20_000);
    expect(() => bus.publish('a', sized(20_001))).toThrow(failure('PAYLOAD_TOO_LARGE'));
  });

  it('that are nested too deep to be text are too large', async () => {
    const { bus } = await open((await nats()).url);
    // With a date in it, the text is made by recursion.
    let body: Body = new Date(0);
    for (let depth = 0; depth < 200_000; depth++) body = [body];
    expect(() => bus.publish('a', body)).toThrow(failure('PAYLOAD_TOO_LARGE'));
  });

  it('under a subject that a server would cut the connection for are refused', async () => {
    const { bus, told } = await open((await nats()).url);
    const long = 'a'.repeat(5_000);
    expect(() => bus.publish(long, {})).toThrow(failure('BAD_SUBJECT'));
    expect(() => bus.subscribe(long, () => {})).toThrow(failure('BAD_SUBJECT'));
    await expect(bus.request(long, {}, PATIENT)).rejects.toEqual(failure('BAD_SUBJECT'));
    await bus.flush();
    expect(told).toEqual([]);
  });
});

describe('what strangers send', () => {
  it('is reported and dropped if it is no JSON object, and the bus goes on', async () => {
    const server = await nats();
    const { bus, errors } = await open(server.url);
    const stranger = await plain(server);
    const got = collect(bus, 'a');
    await bus.flush();
    const garbage = ['', 'secret text', '{"a":', '42', 'null', '"text"', new Uint8Array([0xff, 0xfe, 0x00])];
    for (const each of garbage) stranger.publish('a', each);
    stranger.publish('a', 'garbage with a reply', { reply: 'nowhere' });
    stranger.publish('a', '{"n":1}');
    await eventually(() => expect(got).toEqual([{ n: 1 }]));
    expect(errors.map(({ subject }) => subject)).toEqual(Array(garbage.length + 1).fill('a'));
    for (const { error } of errors) expect(error).toBeInstanceOf(TypeError);
    expect(inspect(errors)).not.toContain('secret');
  });

  it('is no answer if it is no JSON object: the true one may still come', async () => {
    const server = await nats();
    const { bus, errors } = await open(server.url);
    const stranger = await plain(server);
    stranger.subscribe('ask', {
      callback: (_, message) => {
        message.respond('garbage');
        message.respond('');
        message.respond('{"ok":true}');
        message.respond('{"ok":false}');
      },
    });
    await stranger.flush();
    expect(await bus.request('ask', {}, PATIENT)).toEqual({ ok: true });
    expect(errors.map(({ subject }) => subject)).toEqual(['ask', 'ask']);
  });

  it('is understood by them, and they by us', async () => {
    const server = await nats();
    const { bus } = await open(server.url);
    const stranger = await plain(server);
    bus.subscribe('ours', ({ body, respond }) => respond?.({ echo: body }));
    await bus.flush();
    const answer = await stranger.request('ours', '{"text":"\u20ac"}', { timeout: 20_000 });
    expect(answer.json()).toEqual({ echo: { text: '\u20ac' } });
  });
});

describe('handles of one link', () => {
  it('see messages of each other, and of those that share nothing but the server', async () => {
    const server = await nats();
    const [one, two] = [await open(server.url), await open(server.url)];
    const [first, second] = [one.link.connect('first'), one.link.connect('second')];
    const got = [collect(first, 'a'), collect(second, 'a'), collect(two.bus, 'a')];
    await Promise.all([first.flush(), two.bus.flush()]);
    first.publish('a', { n: 1 });
    await eventually(() => expect(got).toEqual([[{ n: 1 }], [{ n: 1 }], [{ n: 1 }]]));
  });

  it('tell the link, once until there is room again, which of them is slow', async () => {
    const { link, told } = await open((await nats()).url);
    const slow = link.connect('the slow one');
    let gate = Promise.withResolvers<void>();
    let dropped = 0;
    let handled = 0;
    slow.subscribe('a', () => gate.promise.then(() => void handled++), {
      maxPending: 2,
      onSlow: (count) => (dropped = count),
    });
    await slow.flush();
    const overload = (): void => {
      for (let n = 0; n < 10; n++) slow.publish('a', { n });
    };
    overload();
    await eventually(() => expect(dropped).toBe(7));
    const first = { type: 'slow', subject: 'a', dropped: 1, handle: 'the slow one' };
    expect(told).toEqual([first]);
    gate.resolve();
    await eventually(() => expect(handled).toBe(3));
    gate = Promise.withResolvers();
    overload();
    await eventually(() => expect(dropped).toBe(14));
    expect(told).toEqual([first, { ...first, dropped: 8 }]);
    gate.resolve();
  });
});

describe('permissions', () => {
  const CONFIG = `
    ping_interval: "1s"
    authorization {
      users: [
        { user: all, password: "s3cret", permissions: { publish: ">", subscribe: ">" } }
        { user: some, password: "s3cret", permissions: {
            publish: { allow: ["open.>", "inbox.>"] }
            subscribe: { allow: ["open.>", "inbox.some.>"] } } }
      ]
    }`;
  const as = (server: NatsServer, user: string): string =>
    `nats://${user}:s3cret@${server.host}:${server.port}`;

  it('that are missing reject a request as FORBIDDEN as soon as the server says so', async () => {
    const server = await nats(CONFIG);
    const { bus, told } = await open({ servers: as(server, 'some'), inboxPrefix: 'inbox.some' });
    const [first, second] = [bus.request('closed.a', {}, PATIENT), bus.request('closed.a', {}, PATIENT)];
    await expect(first).rejects.toEqual(failure('FORBIDDEN'));
    await expect(second).rejects.toEqual(failure('FORBIDDEN'));
    await expect(bus.request('open.a', {}, PATIENT)).rejects.toEqual(failure('NO_RESPONDERS'));
    expect(told[0]).toMatchObject({ type: 'refused', operation: 'publish', subject: 'closed.a' });
  });

  it('that are missing are told of by the link when nobody waits', async () => {
    const server = await nats(CONFIG);
    const { bus, told } = await open({ servers: as(server, 'some'), inboxPrefix: 'inbox.some' });
    bus.publish('closed.b', {});
    await eventually(() =>
      expect(told).toEqual([
        { type: 'refused', operation: 'publish', subject: 'closed.b', error: failure('FORBIDDEN') },
      ]),
    );
  });

  it('that are missing reject the flush after a subscription, until it is let go', async () => {
    const server = await nats(CONFIG);
    const { bus, told } = await open({ servers: as(server, 'some'), inboxPrefix: 'inbox.some' });
    const got = collect(bus, 'open.>');
    const first = bus.subscribe('closed.c', () => {});
    const second = bus.subscribe('closed.>', () => {}, { queue: 'workers' });
    await expect(bus.flush()).rejects.toEqual(failure('FORBIDDEN'));
    first.unsubscribe();
    await expect(bus.flush()).rejects.toEqual(failure('FORBIDDEN'));
    await second.drain();
    await bus.flush();
    bus.publish('open.d', { n: 1 });
    await eventually(() => expect(got).toEqual([{ n: 1 }]));
    expect(told.map((each) => 'subject' in each && each.subject).toSorted()).toEqual([
      'closed.>',
      'closed.c',
    ]);
  });

  it('for answers are those for the prefix of the inbox', async () => {
    const server = await nats(CONFIG);
    const all = await open({ servers: as(server, 'all'), inboxPrefix: 'inbox.all' });
    all.bus.subscribe('open.echo', ({ body, respond }) => respond?.({ echo: body }));
    await all.bus.flush();
    const some = await open({ servers: as(server, 'some'), inboxPrefix: 'inbox.some' });
    expect(await some.bus.request('open.echo', { n: 1 }, PATIENT)).toEqual({ echo: { n: 1 } });
    const wrong = await open({ servers: as(server, 'some'), inboxPrefix: 'inbox.other' });
    for (const n of [1, 2])
      await expect(wrong.bus.request('open.echo', { n }, PATIENT)).rejects.toEqual(failure('FORBIDDEN'));
  });
});

describe('who we are', () => {
  const SECRET = 'h0rse:b@ttery/staple,?#[1234]';
  const HIDDEN = [SECRET, encodeURIComponent(SECRET), 'h0rse', 'b@ttery', 'staple'];
  const config = `authorization { user: me, password: ${JSON.stringify(SECRET)} }\n`;

  async function refusal(options: NatsOptions): Promise<unknown> {
    try {
      const link = await NatsLink.open({ connectTimeoutMs: 2_000, ...options });
      await link.close();
    } catch (error) {
      const everything = `${inspect(error, { depth: 20, showHidden: true, getters: true })} ${String(error)}`;
      for (const hidden of HIDDEN) expect(everything).not.toContain(hidden);
      return error;
    }
    throw new Error('it was opened');
  }

  it('may be in the url, with every special character encoded', async () => {
    const server = await nats(config);
    const nobody = await freePort();
    const login = `me:${encodeURIComponent(SECRET)}`;
    for (const servers of [
      `nats://${login}@${server.host}:${server.port}`,
      `nats://${login}@${HOST}:${nobody},${server.host}:${server.port}`,
      [`nats://${login}@${HOST}:${nobody}`, server.url],
    ]) {
      const { bus } = await open({ servers });
      await bus.flush();
    }
  });

  it('appears in no error', async () => {
    const server = await nats('authorization { user: me, password: other }\n');
    const login = `me:${encodeURIComponent(SECRET)}`;
    const nobody = `${HOST}:${await freePort()}`;
    expect(await refusal({ servers: `nats://${login}@${server.host}:${server.port}` })).toMatchObject({
      name: 'EnclaveError',
      code: 'INVALID_ARGUMENT',
      message: `nats: the server at ${server.host}:${server.port} refuses the credentials`,
    });
    expect(await refusal({ servers: server.url, user: 'me', password: SECRET })).toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    const away = await refusal({ servers: `nats://${login}@${nobody}` });
    expect(away).toMatchObject({ name: 'EnclaveError', code: 'UNAVAILABLE', retryable: true });
    expect(String(away)).toContain(nobody);
    for (const servers of [
      `nats://me:${SECRET}@host:4222`,
      `http://${login}@host`,
      `nats://${login}@host:99999`,
      `nats://${login}@ho st`,
      `nats://me:%zz${login}@host`,
      `${login}@`,
      [`nats://${login}@one`, 'nats://you:1@two'],
    ])
      expect(await refusal({ servers })).toMatchObject({ code: 'INVALID_ARGUMENT', key: expect.any(String) });
    expect(await refusal({ servers: server.url, credentials: SECRET })).toMatchObject({
      code: 'UNAVAILABLE',
    });
    expect(await refusal({ servers: server.url, nkey: SECRET })).toMatchObject({ code: 'UNAVAILABLE' });
    expect(await refusal({ servers: server.url, token: SECRET, nkey: SECRET })).toMatchObject({
      key: 'nats',
    });
  });

  it('may be an nkey or a token', async () => {
    const user = createUser();
    const seed = new TextDecoder().decode(user.getSeed());
    const byKey = await nats(`authorization { users: [ { nkey: ${user.getPublicKey()} } ] }\n`);
    await (await open({ servers: byKey.url, nkey: seed })).bus.flush();
    const byToken = await nats('authorization { token: abc }\n');
    await (await open({ servers: byToken.url, token: 'abc' })).bus.flush();
    await (await open(`nats://abc@${byToken.host}:${byToken.port}`)).bus.flush();
  });
});

describe('opening a link', () => {
  it('waits for the first server if it is asked to', async () => {
    const port = await freePort();
    let opened = false;
    const opening = open({ servers: `nats://${HOST}:${port}`, waitOnFirstConnect: true }).then((link) => {
      opened = true;
      return link;
    });
    await expect(NatsLink.open({ servers: `nats://${HOST}:${port}` })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
    expect(opened).toBe(false);
    const server = await startNats({ port });
    ends.push(() => server.stop());
    await (await opening).bus.flush();
  });

  it.each<[string, NatsOptions]>([
    ['nats.servers', {}],
    ['nats.servers', { servers: [] }],
    ['nats.pingIntervalMs', { servers: 'a', pingIntervalMs: 0 }],
    ['nats.reconnect.jitter', { servers: 'a', reconnect: { jitter: 2 } }],
    ['nats.inboxPrefix', { servers: 'a', inboxPrefix: 'a.*' }],
    ['nats.password', { servers: 'a', password: 'b' }],
    ['nats.tls.caFile', { servers: 'a', tls: { caFile: '' } }],
    ['nats.url', { servers: 'a', url: 'b' } as NatsOptions],
  ])('refuses what is wrong with %s, by its name', async (key, options) => {
    await expect(NatsLink.open(options)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', key });
    expect(() => NatsLink.check(options, 'options.serverUrl')).toThrow(
      expect.objectContaining({ key: key.replace('nats', 'options.serverUrl') }),
    );
  });

  it('takes a connection of the user, and leaves it open', async () => {
    const server = await nats();
    const own = await plain(server);
    const link = await NatsLink.open({ connection: own });
    const bus = link.connect();
    const got = collect(bus, 'a');
    expect(await bus.request('a', { n: 1 }, PATIENT)).toEqual({ got: { n: 1 } });
    expect(link.connected).toBe(true);
    await link.close();
    expect([own.isClosed(), link.connected]).toEqual([false, false]);
    own.publish('a', '{"n":2}');
    await own.flush();
    expect(got).toEqual([{ n: 1 }]);
    await expect(own.request('a', '{}', { timeout: 20_000 })).rejects.toThrow(/no responders/);
    await own.close();
    await expect(NatsLink.open({ connection: own })).rejects.toMatchObject({ key: 'nats.connection' });
  });

  it('is told the truth about a connection that is away, and that the user closes', async () => {
    const server = await nats();
    const own = await connectPlain({ servers: `${server.host}:${server.port}`, reconnectTimeWait: 20 });
    ends.push(() => own.close());
    await server.kill();
    await eventually(() => expect(own.info).toBe(undefined));
    const link = await NatsLink.open({ connection: own });
    const bus = link.connect();
    expect(link.connected).toBe(false);
    await server.restart();
    await bus.flush();
    expect(link.connected).toBe(true);
    await own.close();
    await eventually(() => expect(() => bus.publish('a', {})).toThrow(failure('CLOSED')));
    await expect(bus.flush()).rejects.toEqual(failure('CLOSED'));
  });

  it('survives listeners and error listeners that throw', async () => {
    const server = await nats();
    const link = await NatsLink.open({
      servers: server.url,
      reconnect: { firstMs: 5, maxMs: 25 },
      onError: () => {
        throw new TypeError('thrown by onError');
      },
    });
    ends.push(() => link.close());
    const told: string[] = [];
    link.onStatus(() => {
      throw new TypeError('thrown by a listener');
    });
    const forget = link.onStatus(({ type }) => told.push(type));
    const bus = link.connect();
    bus.subscribe('a', () => {
      throw new TypeError('thrown by a handler');
    });
    await bus.flush();
    bus.publish('a', {});
    await server.restart();
    await eventually(() => expect(told).toEqual(['disconnected', 'connected']));
    forget();
    await bus.flush();
    await link.close();
    expect(told).toHaveLength(2);
  });
});
