/**
 * Puts the guest together: one source text, run once while the V8 startup snapshot is made.
 *
 * Contexts made from that V8 snapshot come with everything in place. The first entry, `begin`, brings the one
 * host function that the guest may call, and removes every trace of the way in from the global.
 */
import { createHash } from 'node:crypto';
import { installConsole } from './console.ts';
import { installDeterminism } from './determinism.ts';
import { installExecution } from './execution.ts';
import { installHarden } from './harden.ts';
import { installKit } from './kit.ts';
import { installLazily } from './lazy.ts';
import { installTrace } from './trace.ts';
import { WEB_GLOBALS, webSource } from './web.ts';

/** The file name in every stack that a script sees. */
export const SCRIPT_NAME = 'script.js';

/** V8 puts this many lines before the body of a function made by a Function constructor. */
export const BODY_LINE_OFFSET = 2;

/** The global under which the guest waits for its first entry, which removes it. */
export const ENTER = '__enclave';

/** The guest's source text. */
export const PRELUDE = `(() => {
'use strict';
const global = globalThis;
const host = { __proto__: null, call: undefined, missed: false };
const kit = (${installKit.toString()})();
const trace = (${installTrace.toString()})(kit, ${JSON.stringify(SCRIPT_NAME)}, ${BODY_LINE_OFFSET});
const sources = (${installDeterminism.toString()})(global, kit);
const web = { __proto__: null, url: (request) => {
  if (typeof request !== 'string') return '{"ok":false}';
  if (host.call !== undefined) return host.call('url', request);
  host.missed = true;
  return '{"ok":false}';
} };
const lazily = (${installLazily.toString()});
const loadWeb = lazily(global, kit, ${JSON.stringify(WEB_GLOBALS)}, () => ${webSource()}(global, web));
let loadConsole;
const enter = (${installExecution.toString()})(global, kit, host, {
  sources,
  trace,
  console: (output) => {
    let made;
    loadConsole = lazily(global, kit, ['console'], () => { made = (${installConsole.toString()})(global, kit, output); });
    return { reset: () => { if (made !== undefined) made.reset(); } };
  },
}, ${JSON.stringify(SCRIPT_NAME)});
const harden = (${installHarden.toString()})(global, kit);
let open = false;
Object.defineProperty(global, ${JSON.stringify(ENTER)}, { configurable: true, enumerable: false, value: (op, a, b, c, d, hard, stateful) => {
  if (open) return enter(op, a, b, c, d);
  open = true;
  delete global[${JSON.stringify(ENTER)}];
  host.call = d;
  sources.settle();
  if (stateful) enter('state');
  if (hard) {
    loadWeb();
    loadConsole();
    harden();
  }
  return enter(op, a, b, c);
} });
})();0`;

/**
 * Run while the V8 snapshot is made, in a context that is thrown away: what runs here is compiled already in
 * every isolate made from the V8 snapshot.
 */
export const WARM_UP = `{
const enter = globalThis.${ENTER};
const config = '{"seed":[1,2,3,4],"time":0,"maxToolCalls":1,"maxResultBytes":9,"maxOutputBytes":99,"maxToolPayloadBytes":9,"stream":false}';
enter('begin', 'console.log(1); Math.random(); new Date(); return await callTool("a")', '', config, () => '', false);
enter('take');
enter('deliver', 0, '', '1', 0);
enter('take');
};0`;

/** Names the prelude's exact text; executions replay only on an equal one. */
export const PRELUDE_VERSION = createHash('sha256')
  .update(PRELUDE)
  .update(WARM_UP)
  .digest('hex')
  .slice(0, 16);
