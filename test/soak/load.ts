/**
 * The load of the soak, as a process of its own whose figures must be flat too: `node load.ts <nats url>`.
 *
 * Lanes make a session each, run scripts in it one after the other, hand it in when it has had its share, and make the
 * next. Others run stateless scripts. All keep to a common pace. It ends with its parent.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { EnclaveClient, type SessionRef } from '../../src/index.ts';
import { SCRIPT } from '../chaos/load.ts';
import type { FromLoad, Timed, ToLoad } from './messages.ts';
import { answerProbes, shouldEnd } from './probe.ts';

const SESSION_LANES = 8;
const RUN_LANES = 4;
/** Less than a session remembers. */
const SHARE = 20;
/** One session in so many is listened to; before one execution in so many it is put away. */
const LISTENED = 3;
const HIBERNATED = 10;
/** Of a stateless run: one call of a tool that takes its time. */
const RUN_SCRIPT = `const { waited } = await callTool('slow:look', { ms: 5 });
return [input, waited];`;

const [url = ''] = process.argv.slice(2);
const client = new EnclaveClient({ serverUrl: url });
const tell = (message: FromLoad): void => void process.send?.(message);
let stopped = false;
let inputs = 0;

/** Times to begin at, evenly spaced; a late one is not made up for. */
class Pace {
  perSecond: number | undefined;
  #next = 0;

  async turn(): Promise<void> {
    if (this.perSecond === undefined) return;
    const at = Math.max(this.#next, performance.now());
    this.#next = at + 1_000 / this.perSecond;
    await delay(at - performance.now());
  }
}

const paces = { sessions: new Pace(), runs: new Pace() };

async function sessionLane(lane: number): Promise<void> {
  for (let made = lane; !stopped; made++) {
    const session = await client.spawnSession({ labels: { lane: String(lane) } });
    const listening = made % LISTENED === 0 ? listen(session) : undefined;
    const executed: Timed[] = [];
    while (!stopped && executed.length < SHARE) {
      await paces.sessions.turn();
      if (inputs % HIBERNATED === 0) await session.hibernate();
      executed.push(await execute(session));
      tell({ t: 'executed' });
    }
    await listening?.stop();
    tell({ t: 'finished', session: session.id, executed });
  }
}

async function execute(session: SessionRef): Promise<Timed> {
  const input = ++inputs;
  const from = Date.now();
  const run = session.execute(SCRIPT, { input });
  let acknowledged = false;
  const accepted = run.accepted.then(
    () => {
      acknowledged = true;
    },
    () => undefined,
  );
  const result = await run.result;
  await Promise.race([accepted, delay(0)]);
  return { session: session.id, execution: run.id, input, acknowledged, result, from, to: Date.now() };
}

/** Read events until it is stopped. */
function listen(session: SessionRef): { readonly stop: () => Promise<void> } {
  const controller = new AbortController();
  const reading = (async () => {
    let last: number | undefined;
    for await (const { seq } of session.events({ signal: controller.signal })) {
      if (seq === undefined) continue;
      if (last !== undefined && seq !== last + 1)
        tell({ t: 'failed', message: `a reader of ${session.id} was given ${seq} after ${last}` });
      last = seq;
    }
  })();
  return {
    stop: async () => {
      controller.abort();
      await reading;
    },
  };
}

async function runLane(): Promise<void> {
  while (!stopped) {
    await paces.runs.turn();
    const input = ++inputs;
    const from = Date.now();
    const result = await client.run<readonly number[]>(RUN_SCRIPT, { input });
    const right = result.success && result.value[0] === input && result.value[1] === 5;
    const wrong = result.success
      ? JSON.stringify(result.value)
      : `${result.error.code} (${result.error.outcome})`;
    tell({ t: 'ran', run: { ok: right, error: right ? undefined : wrong, from, to: Date.now() } });
  }
}

async function retire(id: string, how: 'close' | 'delete'): Promise<void> {
  const session = client.session(id);
  await session.close();
  if (how === 'delete') await session.delete();
  tell({ t: 'retired', session: id, how });
}

function failed(error: unknown): void {
  tell({ t: 'failed', message: error instanceof Error ? (error.stack ?? error.message) : String(error) });
}

answerProbes(process.env.ENCLAVE_TEST_DIR ?? '/tmp');
await client.connect();
const lanes = Promise.all([
  ...Array.from({ length: SESSION_LANES }, (_, lane) => sessionLane(lane).catch(failed)),
  ...Array.from({ length: RUN_LANES }, () => runLane().catch(failed)),
]);
const retiring = new Set<Promise<void>>();

async function finish(): Promise<void> {
  stopped = true;
  await lanes;
  tell({ t: 'idle' });
}

async function end(): Promise<void> {
  await Promise.all(retiring);
  await client.close();
  process.off('message', obey);
  process.disconnect?.();
  shouldEnd();
}

function obey(message: ToLoad): void {
  switch (message.t) {
    case 'pace':
      for (const pace of Object.values(paces)) pace.perSecond = message.perSecond;
      return;
    case 'retire': {
      const one = retire(message.session, message.how)
        .catch(failed)
        .finally(() => retiring.delete(one));
      retiring.add(one);
      return;
    }
    case 'finish':
      return void finish().catch(failed);
    case 'stop':
      return void end().catch(failed);
  }
}

process.on('message', obey);
process.once('disconnect', () => {
  if (!stopped) process.exit(1);
});
tell({ t: 'ready' });
