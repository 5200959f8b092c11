/**
 * One isolated-vm context that scripts run in, at the three levels that the benchmark compares.
 *
 * The synchronous calls are used throughout because they are the fast ones: an entry costs 10 to 30 µs, the
 * asynchronous ones cost a thread change each.
 */
import ivm from 'isolated-vm';
import type { Level } from '../side.ts';

const MEMORY_LIMIT_MB = 128;
const TIMEOUT_MS = 1000;

/**
 * `$0` names the guest, `$1` posts a frame, `$2` posts a run's last frame. The frames are written in the
 * guest, so that the worker need not parse them. The completion value is nothing: a function there would
 * keep the context alive.
 */
const BOOTSTRAP = `
  const guest = $0, post = $1, finish = $2, calls = new Map();
  let nextCall = 0;
  globalThis.callTool = (name, args) => new Promise((resolve, reject) => {
    const call = nextCall++;
    calls.set(call, { resolve, reject });
    post(JSON.stringify({ type: 'call', guest, call, name, args }));
  });
  globalThis.__answer = (call, ok, json) => {
    const { resolve, reject } = calls.get(call);
    calls.delete(call);
    if (ok) resolve(JSON.parse(json)); else reject(new Error(JSON.parse(json)));
  };
  globalThis.__done = (run, value) => finish(guest, JSON.stringify({ type: 'done', run, value }));
  globalThis.__failed = (run, error) => finish(guest, JSON.stringify({ type: 'failed', run, message: String(error) }));
`;

/** Where a guest's frames go. Callbacks are made once per worker, not once per context. */
export interface Outlets {
  readonly post: ivm.Callback<(frame: string) => void>;
  readonly finish: ivm.Callback<(guest: number, frame: string) => void>;
}

/** A context, and what has to be let go with it. */
export class Guest {
  readonly id: number;
  /** True at 'realm' level: the next run uses it again. */
  readonly kept: boolean;
  /** Set when the run in it has sent its last frame. Means nothing for a kept guest. */
  ended = false;
  /** The run that was started in it last: the only one, except in a kept guest. */
  lastRun = -1;
  readonly #context: ivm.Context;
  /** Disposed with the guest; undefined if the isolate is kept. */
  readonly #ownIsolate: ivm.Isolate | undefined;
  #answer: ivm.Reference | undefined;

  constructor(id: number, level: Level, keptIsolate: ivm.Isolate | undefined, outlets: Outlets) {
    this.id = id;
    this.kept = level === 'realm';
    const isolate = keptIsolate ?? newIsolate();
    this.#ownIsolate = keptIsolate === undefined ? isolate : undefined;
    this.#context = isolate.createContextSync();
    this.#context.evalClosureSync(BOOTSTRAP, [id, outlets.post, outlets.finish]);
  }

  /** Run a script's body. Its end comes through `finish`; a syntax error or a timeout is thrown. */
  run(run: number, code: string): void {
    this.lastRun = run;
    this.#context.evalSync(
      `(async () => {${code}\n})().then((v) => __done(${run}, v), (e) => __failed(${run}, e));0`,
      { timeout: TIMEOUT_MS },
    );
  }

  /** Settle one tool call; what the script then does runs before this returns. */
  answer(call: number, ok: boolean, json: string): void {
    this.#answer ??= this.#context.global.getSync('__answer', { reference: true });
    this.#answer.applySync(undefined, [call, ok, json], { timeout: TIMEOUT_MS });
  }

  /** Let go of everything; without it a kept isolate runs out of memory within a thousand contexts. */
  close(): void {
    this.#answer?.release();
    this.#context.release();
    this.#ownIsolate?.dispose();
  }
}

/** An isolate as every level uses it. */
export function newIsolate(): ivm.Isolate {
  return new ivm.Isolate({ memoryLimit: MEMORY_LIMIT_MB });
}
