/** Containment, "The process": what stands around a worker, seen from outside it and from its own realm. */
import { execFile, spawn } from 'node:child_process';
import { readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave } from '../../../src/index.ts';
import { childrenOf } from '../../support/processes.ts';
import { openArena } from './arena.ts';

const arena = openArena();
afterAll(() => arena[Symbol.asyncDispose]());

let pid = 0;
beforeAll(async () => {
  // A variable of the host's, as a secret might be one.
  process.env.ENCLAVE_TEST_SECRET = 'swordfish';
  expect(await arena.value('return 1')).toBe(1);
  [pid = 0] = arena.pids();
  expect(pid).toBeGreaterThan(0);
});
afterAll(() => {
  delete process.env.ENCLAVE_TEST_SECRET;
});

const proc = (name: string): string => readFileSync(`/proc/${pid}/${name}`, 'latin1');

/** True if there is such a process and it is not a zombie. */
function alive(id: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${id}/status`, 'latin1'));
  } catch {
    return false;
  }
}

/** Everything that descends from a process now. */
function descendants(of: number): number[] {
  return childrenOf(of).flatMap((child) => [child, ...(alive(child) ? descendants(child) : [])]);
}

describe.runIf(process.platform === 'linux')('a worker process, seen from outside', () => {
  it('has an environment of exactly two variables', () => {
    expect(proc('environ').split('\0').filter(Boolean).sort()).toEqual(['LANG=C.UTF-8', 'TZ=UTC']);
  });

  it('leaves no core dump and writes no file', () => {
    const limits = proc('limits');
    expect(limits).toMatch(/^Max core file size\s+0\s+0\s/m);
    expect(limits).toMatch(/^Max file size\s+0\s+0\s/m);
  });

  it('has no limit on its address space, under which V8 could not start', () => {
    expect(proc('limits')).toMatch(/^Max address space\s+unlimited\s+unlimited\s/m);
  });

  it('is the first that the kernel ends when memory runs out', () => {
    expect(proc('oom_score_adj').trim()).toBe('1000');
  });

  it('holds no descriptor of the host', () => {
    const held = readdirSync(`/proc/${pid}/fd`).map(
      (fd) => [fd, readlinkSync(`/proc/${pid}/fd/${fd}`)] as const,
    );
    for (const fd of ['0', '1', '2']) expect(held).toContainEqual([fd, '/dev/null']);
    const others = held.filter(([fd]) => Number(fd) > 2);
    for (const [, target] of others) expect(target).toMatch(/^(socket|pipe|anon_inode):|^\/dev\/null$/);
    // Descriptor 3 is the one way to the parent; what else there is belongs to its own event loop.
    expect(others.filter(([, target]) => target.startsWith('socket:'))).toEqual([['3', expect.any(String)]]);
  });

  it('runs with the permission model, without the Node snapshot and without the ipc channel', () => {
    const args = proc('cmdline').split('\0');
    expect(args).toContain('--permission');
    expect(args).toContain('--allow-addons');
    expect(args).toContain('--no-node-snapshot');
    expect(args.filter((arg) => /^--allow-(?!addons$|fs-read=)/.test(arg))).toEqual([]);
    const readable = args.filter((arg) => arg.startsWith('--allow-fs-read=')).map((arg) => arg.slice(16));
    for (const file of readable)
      expect(file).toMatch(
        /\/src\/sandbox\/\*$|^\/etc\/alpine-release$|\/package\.json$|\/node_modules\/(isolated-vm|amaro|node-gyp-build|@jridgewell\/sourcemap-codec)(\/\*)?$/,
      );
  });

  it('works in a folder that is not ours', () => {
    expect(readlinkSync(`/proc/${pid}/cwd`)).toBe('/');
  });
});

describe.runIf(process.platform === 'linux')('a program in the place of the worker', () => {
  const lockdown = pathToFileURL(path.resolve('src/sandbox/child/lockdown.ts')).href;

  /** Run a module under the worker's own flags and environment; it prints JSON. */
  async function probe(code: string): Promise<unknown> {
    const [program = '', ...args] = proc('cmdline').split('\0').filter(Boolean);
    const flags = args.slice(
      0,
      args.findIndex((arg) => /\/child\/main\.[jt]s$/.test(arg)),
    );
    const { stdout } = await promisify(execFile)(program, [...flags, '--input-type=module', '--eval', code], {
      env: { TZ: 'UTC', LANG: 'C.UTF-8' },
    });
    return JSON.parse(stdout);
  }
  const locked = (body: string): string => `
    import { lockDown } from ${JSON.stringify(lockdown)};
    import fs from 'node:fs'; import child from 'node:child_process'; import threads from 'node:worker_threads'; import net from 'node:net'; import dgram from 'node:dgram';
    const write = process.stdout.write.bind(process.stdout);
    const attempt = (f) => { try { f(); return 'done' } catch (e) { return e.code ?? e.name } };
    const { die } = lockDown('amaro');
    const out = await (async () => { ${body} })();
    write(JSON.stringify(out));`;

  it('reads and writes no file, starts no process and no thread', async () => {
    const result = await probe(
      locked(`return {
        passwd: attempt(() => fs.readFileSync('/etc/passwd')),
        environ: attempt(() => fs.readFileSync('/proc/self/environ')),
        parent: attempt(() => fs.readFileSync('/proc/' + process.ppid + '/environ')),
        list: attempt(() => fs.readdirSync('/')),
        write: attempt(() => fs.writeFileSync('/tmp/x', 'x')),
        link: attempt(() => fs.symlinkSync('/etc/passwd', '/tmp/y')),
        spawn: attempt(() => child.spawnSync('/bin/true')),
        fork: attempt(() => child.fork('/x.js')),
        thread: attempt(() => new threads.Worker('0', { eval: true })),
      }`),
    );
    for (const [act, seen] of Object.entries(result as Record<string, string>))
      expect(`${act} ${seen}`).toBe(`${act} ERR_ACCESS_DENIED`);
  });

  it.runIf(Number(process.versions.node.split('.')[0]) >= 25)('opens no socket', async () => {
    const body = `const connect = await new Promise((resolve) => { try { net.connect(1, '127.0.0.1').on('error', (e) => resolve(e.code)).on('connect', () => resolve('connected')) } catch (e) { resolve(e.code) } });
      const listen = await new Promise((resolve) => { try { net.createServer().on('error', (e) => resolve(e.code)).listen(0, () => resolve('listening')) } catch (e) { resolve(e.code) } });
      const udp = await new Promise((resolve) => { try { dgram.createSocket('udp4').on('error', (e) => resolve(e.code)).bind(0, () => resolve('bound')) } catch (e) { resolve(e.code) } });
      return { connect, listen, udp }`;
    expect(await probe(locked(body))).toEqual({
      connect: 'ERR_ACCESS_DENIED',
      listen: 'ERR_ACCESS_DENIED',
      udp: 'ERR_ACCESS_DENIED',
    });
  });

  it('has no function left that acts on other processes or loads code', async () => {
    const names = [
      'kill',
      '_kill',
      'dlopen',
      'binding',
      '_linkedBinding',
      '_debugProcess',
      '_debugEnd',
      'getBuiltinModule',
      'loadEnvFile',
      'chdir',
      'umask',
      'setuid',
      'seteuid',
      'setgid',
      'setegid',
      'setgroups',
      'initgroups',
      'execve',
      'abort',
    ];
    const globals = ['fetch', 'WebSocket', 'EventSource', 'BroadcastChannel', 'navigator', 'require'];
    const body = `return {
      own: ${JSON.stringify(names)}.filter((name) => process[name] !== undefined),
      inherited: ${JSON.stringify(names)}.filter((name) => { for (let o = Object.getPrototypeOf(process); o; o = Object.getPrototypeOf(o)) if (Object.hasOwn(o, name)) return true; return false }),
      again: ${JSON.stringify(names)}.filter((name) => { try { process[name] = () => 1 } catch {} return name === 'kill' && typeof process[name] === 'function' && process[name].toString().includes('native') }),
      globals: ${JSON.stringify(globals)}.filter((name) => globalThis[name] !== undefined),
      handles: typeof process._getActiveHandles,
      imports: await Promise.all(['node:net', 'node:fs', 'fs', 'node:child_process', 'node:module', 'isolated-vm', 'data:text/javascript,1', ${JSON.stringify(lockdown)} + '?again'].map((name) => import(name).then(() => name, () => 'refused'))),
      secret: JSON.stringify(process.env),
    }`;
    expect(await probe(locked(body))).toEqual({
      own: [],
      inherited: [],
      again: [],
      globals: [],
      // They lead from any open socket to the class that opens sockets.
      handles: 'undefined',
      imports: Array.from({ length: 8 }, () => 'refused'),
      secret: JSON.stringify({ TZ: 'UTC', LANG: 'C.UTF-8' }),
    });
  });

  it('can still end itself at once', async () => {
    const error = await probe(locked('die()')).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ signal: 'SIGKILL' });
  });
});

describe.runIf(process.platform === 'linux')('the life of workers', () => {
  it('leaves no process behind after dispose, whatever they were doing', async () => {
    const before = new Set(descendants(process.pid));
    const enclave = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 3 }), isolation: 'process' });
    const running = ['for (;;);', 'await sleep(1e6)', '[].indexOf.call({ length: 2 ** 53 - 1 }, 1)'].map(
      (code, index) => enclave.run(code, { tenant: `t${index}`, limits: { cpuMs: 600_000 } }),
    );
    const busy = (): number => enclave.stats().workers.filter(({ aboard }) => aboard > 0).length;
    await expect.poll(busy, { timeout: 10_000 }).toBe(3);
    const started = descendants(process.pid).filter((id) => !before.has(id));
    expect(started.length).toBeGreaterThanOrEqual(3);
    await enclave.dispose();
    for (const run of running) expect(await run).toMatchObject({ success: false, error: { code: 'CLOSED' } });
    expect(started.filter(alive)).toEqual([]);
  });

  it.each([
    ['idle', 'return 1'],
    ['waiting', 'await sleep(1e6)'],
    ['busy', 'for (;;);'],
    ['stuck in code that nothing interrupts', '[].indexOf.call({ length: 2 ** 53 - 1 }, 1)'],
  ])('ends a worker that is %s when its parent is killed', async (_name, code) => {
    const index = pathToFileURL(path.resolve('src/index.ts')).href;
    const program = `
      import { createWorkerPoolAdapter, Enclave } from ${JSON.stringify(index)};
      const enclave = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 1 }), limits: { cpuMs: 600_000, timeoutMs: 600_000 } });
      await enclave.run('return 1');
      setInterval(() => 0, 1e6);
      enclave.run(${JSON.stringify(code)});
      setTimeout(() => process.stdout.write(enclave.stats().workers.map(({ pid }) => pid).join() + '\\n'), 400);`;
    const parent = spawn(process.execPath, ['--input-type=module', '--eval', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const line = await new Promise<string>((resolve) =>
      parent.stdout.once('data', (chunk: Buffer) => resolve(String(chunk))),
    );
    const workers = line.trim().split(',').map(Number);
    expect(workers.filter(alive)).toHaveLength(1);
    parent.kill('SIGKILL');
    try {
      await expect.poll(() => workers.filter(alive), { timeout: 20_000 }).toEqual([]);
    } finally {
      for (const id of workers.filter(alive)) process.kill(id, 'SIGKILL');
    }
  });

  it('does not depend on exit codes: a worker that ends by itself, with 0, is a lost one', async () => {
    const run = arena.enclave.run('await callTool("echo", "here"); await sleep(50); return 1', {
      onEvent: ({ type }) => {
        if (type === 'tool_result_applied') process.kill(arena.pids()[0] ?? 0, 'SIGTERM');
      },
    });
    expect(await run).toMatchObject({ success: true, value: 1, stats: { attempts: 2 } });
  });
});

it('reports the containment that is in force', () => {
  expect(arena.enclave.stats().containment).toEqual({
    permissionModel: true,
    network: Number(process.versions.node.split('.')[0]) >= 25,
    resourceLimits: process.platform !== 'win32',
    separateUser: false,
  });
});

/** True if every folder on the way is readable by every user. */
function openToOthers(folder: string): boolean {
  const parent = path.dirname(folder);
  return (statSync(folder).mode & 0o005) === 0o005 && (parent === folder || openToOthers(parent));
}

describe('workers under another user', () => {
  // Only a parent that may change users can start them, and only if others may read where the package lies.
  it.runIf(
    process.getuid?.() === 0 &&
      openToOthers(import.meta.dirname) &&
      openToOthers(path.dirname(process.execPath)),
  )('run as that user and group, and stats() says so', async () => {
    const other = 65_534;
    await using own = new Enclave({
      adapter: createWorkerPoolAdapter({ poolSize: 1, uid: other, gid: other }),
    });
    expect(await own.run('return 1')).toMatchObject({ success: true, value: 1 });
    const [worker] = own.stats().workers;
    const status = readFileSync(`/proc/${worker?.pid}/status`, 'utf8');
    const ids = `${other}\t${other}\t${other}\t${other}`;
    expect(status).toContain(`Uid:\t${ids}`);
    expect(status).toContain(`Gid:\t${ids}`);
    expect(own.stats().containment.separateUser).toBe(true);
  });
});
