/**
 * Who may say what to whom over NATS, by the server's own word: the users of `nats.conf`, and identities per process.
 * What is not allowed is shown to be refused (the server's error) and not to arrive (by a fence that does).
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connect, credsAuthenticator, type Msg, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter } from '../../src/adapter.ts';
import type { Bus } from '../../src/bus/bus.ts';
import { NatsLink, type NatsOptions } from '../../src/bus/nats.ts';
import { SessionClient } from '../../src/client/client.ts';
import { systemClock } from '../../src/clock.ts';
import { initIdentities, issue, listIssued, revoke } from '../../src/identities/files.ts';
import {
  createNamespaceAccount,
  createOperator,
  identityOf,
  issueIdentity,
  type NamespaceAccount,
  type Operator,
  revokeIdentity,
  serverConfig,
} from '../../src/identities/identities.ts';
import { ANY_ID, inboxPrefix, permissionsOf, ROLES, type Role } from '../../src/identities/permissions.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import { PoolSandbox } from '../../src/poolsandbox.ts';
import { RuntimeHost } from '../../src/runtime/host.ts';
import { Broker } from '../../src/session/broker.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { subjectsOf } from '../../src/subjects.ts';
import { defineTool } from '../../src/tools/define.ts';
import { ToolProvider } from '../../src/tools/provider.ts';
import { createToolRegistry } from '../../src/tools/registry.ts';
import { Certificates } from '../support/certificates.ts';
import { binary } from '../support/install.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { HOST, waitUntil } from '../support/processes.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const NATS_CONF = path.join(ROOT, 'nats.conf');
const JWT_CONF = path.join(ROOT, 'docker/nats/jwt.conf');

const scratch = mkdtempSync(path.join(tmpdir(), 'enclave-natssecurity-'));
const connections: NatsConnection[] = [];
afterAll(async () => {
  await Promise.all(connections.map((connection) => connection.close()));
  rmSync(scratch, { recursive: true, force: true });
});

/**
 * Have the server read its configuration again. It takes none of another name than the one that it got on its command
 * line, so the file is given that name first.
 */
async function reload(server: NatsServer, file: string): Promise<void> {
  const { server_name: name } = (await (await fetch(`${server.monitorUrl}/varz`)).json()) as {
    readonly server_name: string;
  };
  writeFileSync(file, `${readFileSync(file, 'utf8')}\nserver_name: "${name}"\n`);
  process.kill(server.pid, 'SIGHUP');
}

// ---- one user of a server --------------------------------------------------------------------------------

type Login = Parameters<typeof connect>[0];

/** The server says why and hangs up; who is still writing may see only the latter. */
const REFUSED = /authorization|expired|revoked|EPIPE|ECONNRESET/i;

/** A connection, and what the server refused it. */
class User {
  readonly nats: NatsConnection;
  readonly #refusals: string[] = [];

  static async login(login: Login): Promise<User> {
    const nats = await connect({ reconnect: false, timeout: 5_000, ...login });
    connections.push(nats);
    return new User(nats);
  }

  private constructor(nats: NatsConnection) {
    this.nats = nats;
    void (async () => {
      for await (const status of nats.status())
        if (status.type === 'error') this.#refusals.push(status.error.message);
    })();
  }

  /** Whether the server lets it publish there. */
  async mayPublish(subject: string, body: object = {}, reply?: string): Promise<boolean> {
    return this.#isLet(() =>
      this.nats.publish(subject, JSON.stringify(body), reply === undefined ? {} : { reply }),
    );
  }

  /** Whether the server lets it subscribe there. What comes is thrown away. */
  async maySubscribe(subject: string, queue?: string): Promise<boolean> {
    const options = { callback: () => undefined, ...(queue === undefined ? {} : { queue }) };
    let subscription: ReturnType<NatsConnection['subscribe']> | undefined;
    const isLet = await this.#isLet(() => {
      subscription = this.nats.subscribe(subject, options);
    });
    subscription?.unsubscribe();
    return isLet;
  }

  /** The server answers a ping after all that came before it, errors included. */
  async #isLet(act: () => void): Promise<boolean> {
    const before = this.#refusals.length;
    act();
    await this.nats.flush();
    // The status is told in a turn of its own.
    await new Promise((resolve) => setImmediate(resolve));
    return this.#refusals.length === before;
  }

  /** Collect what comes at a subject. Resolves when the subscription is in force. */
  async listen(subject: string): Promise<Heard> {
    const heard = new Heard();
    this.nats.subscribe(subject, { callback: (error, message) => heard.take(error, message) });
    await this.nats.flush();
    return heard;
  }

  /** Answer every request there. */
  async serve(subject: string, queue?: string): Promise<void> {
    this.nats.subscribe(subject, {
      ...(queue === undefined ? {} : { queue }),
      callback: (error, message) => {
        if (error === null) message.respond('{"ok":true}');
      },
    });
    await this.nats.flush();
  }

  async answersTo(subject: string): Promise<boolean> {
    return this.nats.request(subject, '{}', { timeout: 2_000 }).then(
      () => true,
      () => false,
    );
  }
}

class Heard {
  readonly subjects: string[] = [];

  take(error: unknown, message: Msg): void {
    if (error === null) this.subjects.push(message.subject);
  }

  async has(subject: string): Promise<void> {
    await waitUntil(() => this.subjects.includes(subject), `${subject} arrives`);
  }
}

// ---- a cluster of one each -------------------------------------------------------------------------------

/** A broker, a runtime with a worker, a tool provider and a client, each with a link and an identity of its own. */
class Cluster {
  /** What the server refused them. */
  readonly refused: string[] = [];
  readonly #namespace: string;
  readonly #optionsOf: (role: Role, id: string) => Promise<NatsOptions>;
  readonly #ends: (() => unknown)[] = [];

  constructor(namespace: string, optionsOf: (role: Role, id: string) => Promise<NatsOptions>) {
    this.#namespace = namespace;
    this.#optionsOf = optionsOf;
  }

  async start(): Promise<SessionClient> {
    const shared = { clock: systemClock, subjects: subjectsOf(this.#namespace) };
    const store = new MemoryStore({ clock: systemClock });
    const broker = new Broker({
      id: 'broker-1',
      bus: await this.#link('broker', 'broker-1'),
      store,
      tool: () => undefined,
      ...shared,
    });
    const adapter = createWorkerPoolAdapter({ poolSize: 1 });
    const host = new RuntimeHost({
      id: 'runtime-1',
      bus: await this.#link('runtime', 'runtime-1'),
      sandbox: new PoolSandbox(adapter.attach()),
      labels: {},
      ...shared,
    });
    const add = defineTool({
      name: 'math:add',
      effect: 'unsafe',
      handler: (args) => {
        const { a, b } = args as { readonly a: number; readonly b: number };
        return a + b;
      },
    });
    const provider = new ToolProvider({
      id: 'provider-1',
      bus: await this.#link('provider', 'provider-1'),
      registry: createToolRegistry({ tools: [add] }),
      ...shared,
    });
    const client = new SessionClient({
      id: 'client-1',
      bus: await this.#link('client', 'client-1'),
      defaults: { limits: resolveSessionLimits(undefined), isolation: 'context' },
      ...shared,
    });
    this.#ends.push(
      () => store.close(),
      () => adapter.detach(),
      () => host.close(),
      () => provider.close(),
      () => broker.close(),
      () => client.close(),
    );
    for (const part of [broker, host, provider, client]) await part.start();
    return client;
  }

  async #link(role: Role, id: string): Promise<Bus> {
    const link = await NatsLink.open(await this.#optionsOf(role, id));
    link.onStatus((status) => {
      if (status.type === 'refused') this.refused.push(`${role} ${status.operation} ${status.subject}`);
    });
    this.#ends.push(() => link.close());
    return link.connect();
  }

  async close(): Promise<void> {
    for (const end of this.#ends.toReversed()) await end();
  }
}

// ---- what roles do, from src/subjects.ts -----------------------------------------------------------------

const S = 'session-1';
const ATTEMPT = 'AAAAAAAAAAAAAAAAAAAAAA';
const EVENTS = (namespace: string) => subjectsOf(namespace).sessionEvent('*', '*');

interface Duties {
  readonly publishes: readonly string[];
  readonly subscribes: readonly (string | readonly [subject: string, queue: string])[];
}

/** Everything that the role's code publishes, requests and subscribes to, under its id. */
function dutiesOf(role: Role, namespace: string, id: string): Duties {
  const subjects = subjectsOf(namespace);
  const inbox = `${inboxPrefix(namespace, role, id)}.abc.*`;
  switch (role) {
    case 'broker':
      return {
        publishes: [
          subjects.brokerHeartbeat(id),
          subjects.brokerCmd('b2'),
          subjects.sessionCmd(S),
          subjects.sessionEvent(S, 'stdout'),
          subjects.runtimeCmd('r1'),
          subjects.runtimeProbe,
          subjects.tool('users.get'),
          subjects.providerCmd('p1'),
          subjects.providerProbe,
          subjects.clientResult('c1'),
          `${inboxPrefix(namespace, 'client', 'c1')}.abc.1`,
          subjects.deadletter,
        ],
        subscribes: [
          [subjects.broker('session_create'), 'brokers'],
          [subjects.broker('run'), 'brokers'],
          subjects.brokerCmd(id),
          subjects.brokerHeartbeat('*'),
          subjects.runtimeHeartbeat('*'),
          subjects.providerHeartbeat('*'),
          subjects.sessionCmd(S),
          subjects.sessionIn(S, '*'),
          inbox,
        ],
      };
    case 'runtime':
      return {
        publishes: [subjects.runtimeHeartbeat(id), subjects.sessionIn(S, ATTEMPT)],
        subscribes: [subjects.runtimeCmd(id), subjects.runtimeProbe, inbox],
      };
    case 'provider':
      return {
        publishes: [subjects.sessionTools(S), subjects.providerHeartbeat(id)],
        subscribes: [
          [subjects.tool('users.get'), 'providers'],
          [subjects.tool('ping'), 'providers'],
          subjects.providerCmd(id),
          subjects.providerProbe,
          inbox,
        ],
      };
    case 'client':
      return {
        publishes: [
          subjects.broker('run'),
          subjects.broker('session_create'),
          subjects.broker('session_activate'),
          subjects.broker('session_info'),
          subjects.broker('session_result'),
          subjects.broker('events_read'),
          subjects.broker('journal_read'),
          subjects.broker('tools_list'),
          subjects.sessionCmd(S),
        ],
        subscribes: [
          subjects.clientResult(id),
          subjects.sessionEvent(S, '*'),
          subjects.sessionEvent('*', 'final'),
          inbox,
        ],
      };
    case 'observer':
      return {
        publishes: [subjects.broker('events_read')],
        subscribes: [EVENTS(namespace), subjects.sessionEvent(S, 'stdout'), subjects.audit, inbox],
      };
  }
}

/** Every duty of every role, under an id that nobody here has, and things that nobody may do. */
function everythingIn(namespace: string, id: string): Duties {
  const all = ROLES.map((role) => dutiesOf(role, namespace, id));
  return {
    publishes: [...new Set(all.flatMap(({ publishes }) => publishes))],
    subscribes: [...all.flatMap(({ subscribes }) => subscribes), '>', '*', `enclave.${namespace}.>`],
  };
}

const show = (subscription: Duties['subscribes'][number]): string =>
  typeof subscription === 'string' ? subscription : subscription.join(' ');

/** What of these it may do, as far as the server lets it. */
async function allowedOf(user: User, { publishes, subscribes }: Duties): Promise<readonly string[]> {
  const allowed: string[] = [];
  for (const subject of publishes) if (await user.mayPublish(subject)) allowed.push(`pub ${subject}`);
  for (const each of subscribes) {
    const [subject, queue] = typeof each === 'string' ? [each, undefined] : each;
    if (await user.maySubscribe(subject, queue)) allowed.push(`sub ${show(each)}`);
  }
  return allowed.toSorted();
}

const namesOf = ({ publishes, subscribes }: Duties): readonly string[] =>
  [
    ...publishes.map((subject) => `pub ${subject}`),
    ...subscribes.map((each) => `sub ${show(each)}`),
  ].toSorted();

/** The claims of the issue that hold whoever shares a role's identity with whom. `as` logs in under the id given. */
function holdsTheRoles(
  as: (role: Role, id: string) => Promise<User>,
  optionsOf: (role: Role, id: string) => Promise<NatsOptions>,
  namespace: string,
): void {
  const subjects = subjectsOf(namespace);

  it('lets sessions with tools run, each role with its own identity', async () => {
    const cluster = new Cluster(namespace, optionsOf);
    try {
      const client = await cluster.start();
      const session = await client.spawn();
      const code = "await sleep(5); return 'the answer is ' + await callTool('math:add', { a: 40, b: 2 })";
      const run = session.execute(code);
      const types: string[] = [];
      for await (const { type } of run) types.push(type);
      expect(await run.result).toMatchObject({ success: true, value: 'the answer is 42' });
      expect(types).toEqual(
        expect.arrayContaining(['session_init', 'tool_call', 'tool_result_applied', 'final']),
      );
      expect(await session.info()).toMatchObject({ durability: 'session' });
      await session.close();
      expect(cluster.refused).toEqual([]);
    } finally {
      await cluster.close();
    }
  });

  it.each(ROLES)('lets a %s do everything that its code does', async (role) => {
    const user = await as(role, 'x1');
    const duties = dutiesOf(role, namespace, 'x1');
    expect(await allowedOf(user, duties)).toEqual(namesOf(duties));
  });

  it('lets a client do client things only', async () => {
    const client = await as('client', 'c1');
    const own = dutiesOf('client', namespace, 'x1');
    const others = everythingIn(namespace, 'x1');
    const notOwn: Duties = {
      publishes: others.publishes.filter((subject) => !own.publishes.includes(subject)),
      subscribes: others.subscribes.filter(
        (each) =>
          !own.subscribes.includes(each) && !dutiesOf('observer', namespace, 'x1').subscribes.includes(each),
      ),
    };
    expect(notOwn.publishes).toEqual(
      expect.arrayContaining([
        subjects.sessionEvent(S, 'stdout'),
        subjects.sessionIn(S, ATTEMPT),
        subjects.sessionTools(S),
        subjects.brokerCmd('b2'),
        subjects.runtimeCmd('r1'),
        subjects.tool('users.get'),
        subjects.clientResult('c1'),
      ]),
    );
    expect(await allowedOf(client, { ...notOwn, subscribes: [] })).toEqual([]);
    const observed = dutiesOf('observer', namespace, 'x1').subscribes.map((each) => `sub ${show(each)}`);
    const also = (await allowedOf(client, { publishes: [], subscribes: notOwn.subscribes })).filter(
      (each) => !observed.includes(each),
    );
    expect(also).toEqual([]);
    expect(await client.maySubscribe(subjects.audit)).toBe(false);
  });

  it('lets an observer see events and the audit, and ask for events that it missed, and nothing else', async () => {
    const observer = await as('observer', 'o1');
    const allowed = await allowedOf(observer, everythingIn(namespace, 'o1'));
    expect(allowed.filter((each) => each.startsWith('pub'))).toEqual([
      `pub ${subjects.broker('events_read')}`,
    ]);
    const inbox = `sub ${inboxPrefix(namespace, 'observer', 'o1')}.abc.*`;
    const events = allowed.filter((each) => each.includes('.event.'));
    expect(allowed.filter((each) => each.startsWith('sub') && !events.includes(each))).toEqual([
      `sub ${subjects.audit}`,
      inbox,
    ]);
  });

  it('does not let a runtime make up the ends of tool calls', async () => {
    const [runtime, broker] = [await as('runtime', 'r1'), await as('broker', 'b1')];
    const owner = await broker.listen(subjects.sessionIn(S, '*'));
    expect(await runtime.mayPublish(subjects.sessionTools(S), { t: 'ended' })).toBe(false);
    // A fence: what comes later has come, so what was refused will not.
    expect(await runtime.mayPublish(subjects.sessionIn(S, ATTEMPT))).toBe(true);
    await owner.has(subjects.sessionIn(S, ATTEMPT));
    expect(owner.subjects).toEqual([subjects.sessionIn(S, ATTEMPT)]);
  });

  it('lets nobody but a broker publish events', async () => {
    const event = subjects.sessionEvent(S, 'final');
    const [broker, observer] = [await as('broker', 'b1'), await as('observer', 'o1')];
    const seen = await observer.listen(EVENTS(namespace));
    for (const role of ROLES.filter((each) => each !== 'broker'))
      expect([role, await (await as(role, 'x1')).mayPublish(event)]).toEqual([role, false]);
    expect(await broker.mayPublish(subjects.sessionEvent(S, 'fence'))).toBe(true);
    await seen.has(subjects.sessionEvent(S, 'fence'));
    expect(seen.subjects).toEqual([subjects.sessionEvent(S, 'fence')]);
  });

  it('hands calls of tools to the queue group of providers alone', async () => {
    const provider = await as('provider', 'p1');
    const tool = subjects.tool('users.get');
    expect(await provider.maySubscribe(tool, 'providers')).toBe(true);
    expect(await provider.maySubscribe(tool)).toBe(false);
    expect(await provider.maySubscribe(tool, 'others')).toBe(false);
    expect(await provider.maySubscribe(subjects.tool('>'))).toBe(false);
  });

  it('lets a runtime and a provider answer whoever asked, once, and nobody who did not', async () => {
    const broker = await as('broker', 'b1');
    const runtime = await as('runtime', 'r1');
    const provider = await as('provider', 'p1');
    await runtime.serve(subjects.runtimeCmd('r1'));
    await provider.serve(subjects.tool('users.get'), 'providers');
    expect(await broker.answersTo(subjects.runtimeCmd('r1'))).toBe(true);
    expect(await broker.answersTo(subjects.tool('users.get'))).toBe(true);
    const inbox = `${inboxPrefix(namespace, 'broker', 'b1')}.known.1`;
    await broker.listen(inbox);
    expect(await runtime.mayPublish(inbox)).toBe(false);
    expect(await provider.mayPublish(inbox)).toBe(false);
    // Two answers to one request.
    runtime.nats.subscribe(subjects.runtimeCmd('r1'), { callback: () => undefined });
    await runtime.nats.flush();
    await broker.mayPublish(subjects.runtimeCmd('r1'), {}, inbox);
    await waitUntil(async () => !(await runtime.mayPublish(inbox)), 'the answers are used up');
  });

  it('lets a client ask brokers and owners, and be answered', async () => {
    const [broker, client] = [await as('broker', 'b1'), await as('client', 'c1')];
    await broker.serve(subjects.broker('session_info'), 'brokers');
    await broker.serve(subjects.sessionCmd('session-2'));
    expect(await client.answersTo(subjects.broker('session_info'))).toBe(true);
    expect(await client.answersTo(subjects.sessionCmd('session-2'))).toBe(true);
  });

  const inboxesRead = async (user: User): Promise<readonly Role[]> => {
    const read: Role[] = [];
    for (const role of ROLES)
      if (await user.maySubscribe(`${inboxPrefix(namespace, role, 'x1')}.>`)) read.push(role);
    return read;
  };

  it.each(ROLES.filter((role) => role !== 'broker'))(
    'does not let a %s read the inboxes of other roles',
    async (role) => {
      const user = await as(role, 'x1');
      expect(await inboxesRead(user)).toEqual([role]);
      expect(await user.maySubscribe(`enclave.${namespace}.inbox.>`)).toBe(false);
      expect(await user.maySubscribe('_INBOX.>')).toBe(false);
    },
  );

  it('lets a broker read everything in its namespace, the inboxes of all roles included, and nothing else', async () => {
    const broker = await as('broker', 'x1');
    expect(await inboxesRead(broker)).toEqual(ROLES);
    expect(await broker.maySubscribe(`enclave.${namespace}.>`)).toBe(true);
    for (const subject of ['_INBOX.>', '>', '*', '$SYS.>'])
      expect([subject, await broker.maySubscribe(subject)]).toEqual([subject, false]);
  });

  it.each(ROLES)('does not let a %s reach another namespace', async (role) => {
    const user = await as(role, 'x1');
    expect(await allowedOf(user, everythingIn('elsewhere', 'x1'))).toEqual([]);
    expect(await user.maySubscribe('enclave.*.>')).toBe(false);
    expect(await user.maySubscribe('enclave.>')).toBe(false);
    expect(await user.mayPublish('$SYS.REQ.SERVER.PING')).toBe(false);
  });
}

// ---- nats.conf -------------------------------------------------------------------------------------------

const passwordOf = (role: Role): string => `secret-of-${role}`;
const passwordVariables = Object.fromEntries(
  ROLES.map((role) => [`ENCLAVE_NATS_${role.toUpperCase()}_PASSWORD`, passwordOf(role)]),
);

describe('nats.conf', () => {
  let server: NatsServer;
  const before = { ...process.env };
  beforeAll(async () => {
    // The server is started with the environment of this process.
    Object.assign(process.env, passwordVariables);
    server = await startNats({ config: NATS_CONF });
  });
  afterAll(async () => {
    for (const name of Object.keys(passwordVariables)) delete process.env[name];
    Object.assign(process.env, before);
    await server?.stop();
  });

  const as = (role: Role, id: string): Promise<User> =>
    User.login({
      servers: server.url,
      user: role,
      pass: passwordOf(role),
      inboxPrefix: inboxPrefix('default', role, id),
    });

  const optionsOf = async (role: Role, id: string): Promise<NatsOptions> => ({
    servers: server.url,
    user: role,
    password: passwordOf(role),
    inboxPrefix: inboxPrefix('default', role, id),
  });

  holdsTheRoles(as, optionsOf, 'default');

  it.each([
    ['nothing', {}],
    ['a wrong password', { user: 'client', pass: 'wrong' }],
    ['the name of nobody', { user: 'nobody', pass: passwordOf('client') }],
  ])('refuses who says %s', async (_, login) => {
    await expect(User.login({ servers: server.url, ...login })).rejects.toThrow(REFUSED);
  });

  it('does not start without passwords', () => {
    const env = { PATH: process.env.PATH };
    const start = () => execFileSync(binary('nats-server'), ['-t', '-c', NATS_CONF], { env, stdio: 'pipe' });
    expect(start).toThrow(/ENCLAVE_NATS_\w+_PASSWORD/);
  });

  it.each(ROLES)('grants a %s exactly what the table of permissions does', (role) => {
    const block = new RegExp(`^${role.toUpperCase()}: \\{\\n([\\s\\S]*?)^\\}`, 'm').exec(
      readFileSync(NATS_CONF, 'utf8').replace(/^\s*#.*$/gm, ''),
    );
    const listed = [...(block?.[1] ?? '').matchAll(/"(enclave[^"]*)"/g)].map(([, subject]) => subject);
    const { publish, subscribe, responses } = permissionsOf(role, 'default', ANY_ID);
    expect(listed.toSorted()).toEqual([...publish.allow, ...publish.deny, ...subscribe.allow].toSorted());
    const answers = /allow_responses: \{ max: (\d+), expires: "1m" \}/.exec(block?.[1] ?? '');
    expect(answers?.[1]).toBe(responses === undefined ? undefined : String(responses.max));
    if (responses !== undefined) expect(responses.ttlMs).toBe(60_000);
  });

  it('has the same numbers as the configuration with identities', () => {
    const numbers = (file: string): readonly string[] =>
      [...readFileSync(file, 'utf8').matchAll(/^(?:listen|http|max_\w+|write_deadline|ping_\w+): .*$/gm)].map(
        ([line]) => line,
      );
    expect(numbers(NATS_CONF)).toHaveLength(7);
    expect(numbers(JWT_CONF)).toEqual(numbers(NATS_CONF));
  });
});

// ---- an identity per process -----------------------------------------------------------------------------

describe('identities of their own', () => {
  let operator: Operator;
  const tenants = { Acme: createNamespaceAccount('Acme'), rival: createNamespaceAccount('rival') };
  const dir = path.join(scratch, 'server');
  const configFile = path.join(scratch, 'jwt.conf');
  let server: NatsServer;

  const writeConfig = async (accounts: readonly NamespaceAccount[]): Promise<void> => {
    writeFileSync(path.join(scratch, 'identities.conf'), await serverConfig(operator, accounts));
    writeFileSync(configFile, readFileSync(JWT_CONF, 'utf8'));
  };
  const loginWith = (creds: string, inbox?: string): Promise<User> =>
    User.login({
      servers: server.url,
      authenticator: credsAuthenticator(new TextEncoder().encode(creds)),
      ...(inbox === undefined ? {} : { inboxPrefix: inbox }),
    });
  const asOf =
    (account: NamespaceAccount) =>
    async (role: Role, id: string): Promise<User> => {
      const { creds } = await issueIdentity(account, { role, id });
      return loginWith(creds, inboxPrefix(account.namespace, role, id));
    };
  const as = asOf(tenants.Acme);
  const subjects = subjectsOf('Acme');

  beforeAll(async () => {
    operator = await createOperator();
    await writeConfig([tenants.Acme, tenants.rival]);
    server = await startNats({ config: configFile });
  });
  afterAll(async () => {
    await server?.stop();
    rmSync(dir, { recursive: true, force: true });
  });

  const optionsOf = async (role: Role, id: string): Promise<NatsOptions> => {
    const { creds } = await issueIdentity(tenants.Acme, { role, id });
    return { servers: server.url, credentials: creds, inboxPrefix: (await identityOf(creds)).inboxPrefix };
  };

  holdsTheRoles(as, optionsOf, 'Acme');

  it('does not let a runtime read what another is offered', async () => {
    const [one, broker] = [await as('runtime', 'r1'), await as('broker', 'b1')];
    for (const subject of [
      subjects.runtimeCmd('r2'),
      subjects.runtimeCmd('*'),
      'enclave.Acme.runtime.>',
      'enclave.Acme.>',
    ])
      expect([subject, await one.maySubscribe(subject)]).toEqual([subject, false]);
    const own = await one.listen(subjects.runtimeCmd('r1'));
    await broker.mayPublish(subjects.runtimeCmd('r2'));
    await broker.mayPublish(subjects.runtimeCmd('r1'));
    await own.has(subjects.runtimeCmd('r1'));
    expect(own.subjects).toEqual([subjects.runtimeCmd('r1')]);
  });

  it('does not let a runtime send the heartbeat of another', async () => {
    const [one, broker] = [await as('runtime', 'r1'), await as('broker', 'b1')];
    const beats = await broker.listen(subjects.runtimeHeartbeat('*'));
    expect(await one.mayPublish(subjects.runtimeHeartbeat('r2'), { runtime: 'r2' })).toBe(false);
    expect(await one.mayPublish(subjects.runtimeHeartbeat('r1'), { runtime: 'r1' })).toBe(true);
    await beats.has(subjects.runtimeHeartbeat('r1'));
    expect(beats.subjects).toEqual([subjects.runtimeHeartbeat('r1')]);
  });

  it.each(ROLES.filter((role) => role !== 'broker'))(
    'does not let a %s read the replies to another one, or what is told to it',
    async (role) => {
      const user = await as(role, 'x1');
      const others = [
        `${inboxPrefix('Acme', role, 'x2')}.>`,
        `${inboxPrefix('Acme', role, '*')}.>`,
        'enclave.Acme.inbox.>',
        subjects.clientResult('x2'),
        subjects.clientResult('*'),
        subjects.providerCmd('x2'),
        subjects.providerHeartbeat('*'),
      ];
      for (const subject of others)
        expect([subject, await user.maySubscribe(subject)]).toEqual([subject, false]);
    },
  );

  it('does not let a provider speak for another', async () => {
    const provider = await as('provider', 'p1');
    expect(await provider.mayPublish(subjects.providerHeartbeat('p2'))).toBe(false);
    expect(await provider.mayPublish(subjects.providerHeartbeat('p1'))).toBe(true);
  });

  it('keeps two namespaces apart even where both use the same subject', async () => {
    const [own, other] = [await as('broker', 'b1'), await asOf(tenants.rival)('broker', 'b1')];
    expect(await other.mayPublish(subjects.runtimeCmd('r1'))).toBe(false);
    expect(await other.maySubscribe('enclave.Acme.>')).toBe(false);
    const heard = await own.listen('enclave.Acme.>');
    await other.mayPublish(subjectsOf('rival').deadletter);
    await own.mayPublish(subjects.deadletter);
    await heard.has(subjects.deadletter);
    expect(heard.subjects).toEqual([subjects.deadletter]);
  });

  it('refuses a user signed by the key of an account that the server does not know', async () => {
    const stranger = createNamespaceAccount('Acme');
    const { creds } = await issueIdentity(stranger, { role: 'broker', id: 'b1' });
    await expect(loginWith(creds)).rejects.toThrow(REFUSED);
  });

  it('refuses who stole a token but not its secret', async () => {
    const [one, other] = await Promise.all([
      issueIdentity(tenants.Acme, { role: 'runtime', id: 'r1' }),
      issueIdentity(tenants.Acme, { role: 'runtime', id: 'r2' }),
    ]);
    const seed = /-----BEGIN USER NKEY SEED-----\n.*\n/;
    const mixed = one.creds.replace(seed, seed.exec(other.creds)?.[0] ?? '');
    expect(mixed).not.toBe(one.creds);
    await expect(loginWith(mixed)).rejects.toThrow(REFUSED);
  });

  it('refuses an identity that has expired', async () => {
    const past = Date.now() - 3_600_000;
    const options = { role: 'runtime', id: 'r1', expiresInSeconds: 60, now: past } as const;
    const { creds, expiresAt } = await issueIdentity(tenants.Acme, options);
    expect(expiresAt).toBe(Math.floor(past / 1_000) * 1_000 + 60_000);
    await expect(loginWith(creds)).rejects.toThrow(REFUSED);
  });

  it('cuts a connection when its identity expires', async () => {
    const { creds } = await issueIdentity(tenants.Acme, { role: 'runtime', id: 'r1', expiresInSeconds: 6 });
    const user = await loginWith(creds);
    expect(await user.mayPublish(subjects.runtimeHeartbeat('r1'))).toBe(true);
    await user.nats.closed();
    expect(user.nats.isClosed()).toBe(true);
  });

  it('refuses an identity that is revoked from the next SIGHUP on, and no other', async () => {
    const [bad, good] = await Promise.all([
      issueIdentity(tenants.Acme, { role: 'runtime', id: 'bad' }),
      issueIdentity(tenants.Acme, { role: 'runtime', id: 'good' }),
    ]);
    const [revoked, other] = [await loginWith(bad.creds), await loginWith(good.creds)];
    await writeConfig([revokeIdentity(tenants.Acme, bad.key), tenants.rival]);
    await reload(server, configFile);
    // The server cuts everybody, and those who may come back do.
    await Promise.all([revoked.nats.closed(), other.nats.closed()]);
    await expect(loginWith(bad.creds)).rejects.toThrow(REFUSED);
    expect(await (await loginWith(good.creds)).mayPublish(subjects.runtimeHeartbeat('good'))).toBe(true);
  });
});

// ---- what is issued --------------------------------------------------------------------------------------

describe('issuing', () => {
  const account = createNamespaceAccount('Acme');

  it.each(['*', '>', 'a.b', '', 'a b', '{{name()}}', 'x'.repeat(65)])('refuses the id %j', async (id) => {
    await expect(issueIdentity(account, { role: 'runtime', id })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      key: 'id',
    });
  });

  it('refuses what is no role, no namespace, no time and no key', async () => {
    await expect(issueIdentity(account, { role: 'admin' as Role, id: 'a' })).rejects.toThrow(/role: /);
    await expect(issueIdentity(account, { role: 'client', id: 'a', expiresInSeconds: 0.5 })).rejects.toThrow(
      /expiresInSeconds: /,
    );
    expect(() => createNamespaceAccount('a.b')).toThrow(/namespace: /);
    expect(() => revokeIdentity(account, '*')).toThrow(/key: /);
    await expect(serverConfig(await createOperator(), [account, account])).rejects.toThrow(/more than once/);
  });

  it('tells a process from its credentials who it is', async () => {
    const { creds, key } = await issueIdentity(account, { role: 'runtime', id: 'r1' });
    expect(await identityOf(creds)).toEqual({
      namespace: 'Acme',
      role: 'runtime',
      id: 'r1',
      key,
      expiresAt: undefined,
      inboxPrefix: 'enclave.Acme.inbox.runtime.r1',
    });
    await expect(identityOf('nonsense')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', key: 'creds' });
  });

  it('gives servers no secret', async () => {
    const operator = await createOperator();
    const text = await serverConfig(operator, [account]);
    for (const secret of [
      operator.seed,
      operator.systemSeed,
      account.seed,
      ...Object.values(account.signers),
    ])
      expect(text).not.toContain(secret);
  });

  it('keeps what it made in a directory that others cannot read, and goes on from there', async () => {
    const dir = path.join(scratch, 'kept');
    const config = path.join(scratch, 'kept.conf');
    writeFileSync(config, `include "${path.relative(scratch, await initIdentities(dir, ['Acme']))}"\n`);
    const creds = await issue(dir, { namespace: 'Acme', role: 'runtime', id: 'r1' });
    const server = await startNats({ config });
    try {
      const login = async () =>
        User.login({ servers: server.url, authenticator: credsAuthenticator(readFileSync(kept)) });
      const kept = path.join(scratch, 'kept.creds');
      writeFileSync(kept, readFileSync(creds));
      const user = await login();
      expect(await user.mayPublish('enclave.Acme.runtime.r1.heartbeat')).toBe(true);
      expect(await revoke(dir, { namespace: 'Acme', role: 'runtime', id: 'r1' })).toBe(1);
      await reload(server, config);
      await user.nats.closed();
      await expect(login()).rejects.toThrow(REFUSED);
    } finally {
      await server.stop();
    }
    for (const file of ['identities.json']) expect(statSync(path.join(dir, file)).mode & 0o077).toBe(0);
    expect(statSync(dir).mode & 0o077).toBe(0);
    expect(await listIssued(dir)).toMatchObject([{ id: 'r1', revokedAt: expect.any(Number) }]);
  });

  it('says what is wrong with a directory', async () => {
    const dir = path.join(scratch, 'wrong');
    const request = { namespace: 'Acme', role: 'client', id: 'c1' } as const;
    await expect(issue(dir, request)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await initIdentities(dir);
    await expect(initIdentities(dir)).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
    await expect(issue(dir, request)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(revoke(dir, { ...request, namespace: 'default' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
    writeFileSync(path.join(dir, 'identities.json'), '{"format":1,"operator":{"seed":"x"},"accounts":[]}');
    await expect(issue(dir, request)).rejects.toMatchObject({ code: 'SERIALIZATION_ERROR' });
  });
});

// ---- TLS -------------------------------------------------------------------------------------------------

describe('TLS', () => {
  const certificates = new Certificates(scratch);
  const file = (name: string): string => certificates.file(name);
  const text = (name: string): string => certificates.text(name);
  let server: NatsServer;
  beforeAll(async () => {
    const tls = ['cert_file', 'key_file', 'ca_file'].map(
      (key, index) => `${key}: "${file(['server.pem', 'server.key', 'ca.pem'][index] ?? '')}"`,
    );
    server = await startNats({ config: `tls: {\n${tls.join('\n')}\nverify: true\n}\n` });
  });
  afterAll(() => server?.stop());

  it('carries messages between those who show a certificate to each other', async () => {
    const tls = { ca: text('ca.pem'), cert: text('client.pem'), key: text('client.key') };
    const user = await User.login({ servers: `tls://${HOST}:${server.port}`, tls });
    const heard = await user.listen('fact');
    await user.mayPublish('fact');
    await heard.has('fact');
  });

  it('is spoken by a link that was given the files', async () => {
    const files = { caFile: file('ca.pem'), certFile: file('client.pem'), keyFile: file('client.key') };
    const link = await NatsLink.open({ servers: `tls://${HOST}:${server.port}`, tls: files });
    try {
      const bus = link.connect();
      bus.subscribe('question', ({ respond }) => respond?.({ yes: true }));
      expect(await bus.request('question', {}, { timeoutMs: 2_000 })).toEqual({ yes: true });
    } finally {
      await link.close();
    }
    const noCertificate = { servers: `tls://${HOST}:${server.port}`, tls: { caFile: file('ca.pem') } };
    await expect(NatsLink.open(noCertificate)).rejects.toMatchObject({ name: 'EnclaveError' });
  });

  it.each([
    ['speaks in the clear', () => undefined],
    ['shows no certificate', () => ({ ca: text('ca.pem') })],
    [
      'does not know the authority of the server',
      () => ({ cert: text('client.pem'), key: text('client.key') }),
    ],
  ])('refuses a connection that %s', async (_, tlsOf) => {
    const tls = tlsOf();
    const plain = { servers: server.url, tls: null };
    await expect(User.login(tls === undefined ? plain : { servers: server.url, tls })).rejects.toThrow();
  });
});
