/** Acceptance: a broker starts and ends runtimes that are processes of this machine, over a real NATS server. */
import { afterEach, expect, it } from 'vitest';
import { NatsLink } from '../../src/bus/nats.ts';
import { systemClock } from '../../src/clock.ts';
import { resolveRuntimePool } from '../../src/options.ts';
import { LocalRuntimes } from '../../src/provision/processes.ts';
import { defineTool } from '../../src/tools/define.ts';
import { startNats } from '../support/nats.ts';
import { Parts } from '../support/parts.ts';
import { stopAll } from '../support/processes.ts';

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0)) await clean();
  await stopAll();
});

it('a pool of processes grows with what is asked of it, shrinks, and is gone with its broker', async () => {
  const gate = Promise.withResolvers<void>();
  const tool = defineTool({ name: 'gate', effect: 'read', handler: () => gate.promise });
  const { url } = await startNats();
  const link = await NatsLink.open({ servers: url });
  const parts = new Parts([tool], link);
  const provisioner = new LocalRuntimes({
    clock: systemClock,
    natsUrl: url,
    namespace: 'test',
    labels: { kind: 'pooled' },
    poolSize: 1,
    drainGraceMs: 5_000,
    env: { ENCLAVE_HEARTBEAT_MS: '100', ENCLAVE_LOG_LEVEL: 'warn' },
  });
  cleanups.push(
    () => parts.close(),
    () => provisioner.close(),
  );
  // A worker has room for 16: above 0.2 of that a second runtime is wanted.
  const pool = resolveRuntimePool({ minSize: 1, maxSize: 2, scaleUpThreshold: 0.2, scaleInterval: 300 });
  const broker = await parts.broker('b1', { autoscaling: { pool, provisioner } });
  await parts.known(1);
  const [first] = broker.directory.runtimes();
  expect(first).toMatchObject({ labels: { kind: 'pooled' }, capacity: 16, intervalMs: 100 });
  expect(await provisioner.list()).toEqual([first?.runtime]);

  const sessions = await Promise.all(Array.from({ length: 5 }, () => parts.session()));
  const runs = sessions.map((session) => session.execute(`await callTool('gate'); return 'done'`));
  await parts.known(2);
  gate.resolve();
  for (const { result } of runs)
    expect(await result).toMatchObject({ success: true, value: 'done', stats: { attempts: 1 } });

  await parts.until(async () => (await provisioner.list()).length === 1, 'one was let go');
  await parts.known(1);
  expect(await (await parts.session()).execute('return 1').result).toMatchObject({ value: 1 });

  await broker.drain();
  await provisioner.close();
  expect(await provisioner.list()).toEqual([]);
}, 60_000);
