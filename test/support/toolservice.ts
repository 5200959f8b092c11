/**
 * A service that provides tools, as a process of its own: `node toolservice.ts <nats url> <id> <tool>...`. It tells
 * its parent of every call, and calls wait for the parent's word. It ends with its parent.
 */
import process from 'node:process';
import { provideTools } from '../../src/providetools.ts';
import { defineTool, type Reconciled, type Tool, type ToolContext } from '../../src/tools/define.ts';

/** What a service tells. */
export type FromService =
  | { readonly t: 'ready' }
  | { readonly t: 'called' | 'asked' | 'aborted'; readonly tool: string; readonly key: string }
  | { readonly t: 'ended'; readonly tool: string; readonly key: string }
  | { readonly t: 'drained' };

/** What it is told. */
export type ToService =
  /** Let the calls of a tool end, from now on. */
  | { readonly t: 'release'; readonly tool: string }
  /** What reconcile answers. */
  | { readonly t: 'answer'; readonly status: 'completed' | 'not_started' | 'unknown' }
  | { readonly t: 'drain'; readonly graceMs: number };

const [url = '', id = '', ...names] = process.argv.slice(2);
const gates = new Map<string, PromiseWithResolvers<void>>();
let answer: Reconciled = { status: 'unknown' };

const tell = (message: FromService): void => void process.send?.(message);
const gateOf = (tool: string): PromiseWithResolvers<void> => {
  let gate = gates.get(tool);
  if (gate === undefined) gates.set(tool, (gate = Promise.withResolvers()));
  return gate;
};

async function held(tool: string, { idempotencyKey: key, signal }: ToolContext): Promise<unknown> {
  tell({ t: 'called', tool, key });
  signal.addEventListener('abort', () => tell({ t: 'aborted', tool, key }));
  await gateOf(tool).promise;
  tell({ t: 'ended', tool, key });
  return { by: id };
}

const TOOLS: Readonly<Record<string, (name: string) => Tool>> = {
  'svc:read': (name) => defineTool({ name, effect: 'read', handler: (_, ctx) => held(name, ctx) }),
  'svc:put': (name) => defineTool({ name, effect: 'idempotent', handler: (_, ctx) => held(name, ctx) }),
  'svc:send': (name) => defineTool({ name, handler: (_, ctx) => held(name, ctx) }),
  'svc:pay': (name) =>
    defineTool({
      name,
      handler: (_, ctx) => held(name, ctx),
      reconcile: ({ key }) => {
        tell({ t: 'asked', tool: name, key });
        return answer;
      },
    }),
  'svc:nap': (name) => defineTool({ name, timeoutMs: 200, handler: (_, ctx) => held(name, ctx) }),
  'svc:who': (name) => defineTool({ name, effect: 'read', handler: () => id }),
};

const service = await provideTools(
  url,
  names.map((name) => {
    const make = TOOLS[name];
    if (make === undefined) throw new Error(`there is no tool ${name}`);
    return make(name);
  }),
  { namespace: 'test', id },
);

process.on('message', (message: ToService) => {
  if (message.t === 'release') gateOf(message.tool).resolve();
  else if (message.t === 'answer')
    answer =
      message.status === 'completed'
        ? { status: 'completed', value: { by: `record of ${id}` } }
        : (message as Reconciled);
  else
    void service.drain(message.graceMs).then(() => {
      tell({ t: 'drained' });
      process.disconnect?.();
    });
});
process.once('disconnect', () => process.exit());
tell({ t: 'ready' });
