/**
 * Puts the guest together: one source text, run once while the V8 startup snapshot is made.
 *
 * Contexts made from that V8 snapshot come with everything in place; `activate` then hands the context the one
 * host function that it may call and removes every trace of itself from the global.
 */
import { createHash } from 'node:crypto';
import { installConsole } from './console.ts';
import { installDeterminism } from './determinism.ts';
import { installExecution } from './execution.ts';
import { installHarden } from './harden.ts';
import { installKit } from './kit.ts';
import { installTrace } from './trace.ts';
import { webSource } from './web.ts';

/** The file name in every stack that a script sees. */
export const SCRIPT_NAME = 'script.js';

/** V8 puts this many lines before the body of a function made by a Function constructor. */
export const BODY_LINE_OFFSET = 2;

/** The name under which the guest waits for `activate`; gone from the global afterwards. */
const PARKED = '__enclave';

/** The guest's source text. */
export const PRELUDE = `(() => {
'use strict';
const global = globalThis;
const host = { __proto__: null, call: undefined };
const kit = (${installKit.toString()})();
const trace = (${installTrace.toString()})(kit, ${JSON.stringify(SCRIPT_NAME)}, ${BODY_LINE_OFFSET});
const sources = (${installDeterminism.toString()})(global, kit);
const web = { __proto__: null, url: undefined };
${webSource()}(global, web);
const enter = (${installExecution.toString()})(global, kit, host, {
  sources,
  trace,
  installConsole: (output) => (${installConsole.toString()})(global, kit, output),
}, ${JSON.stringify(SCRIPT_NAME)});
const harden = (${installHarden.toString()})(global, kit);
Object.defineProperty(global, ${JSON.stringify(PARKED)}, { configurable: true, enumerable: false, value: (call, hard) => {
  host.call = call;
  web.url = (request) => call('url', request);
  sources.remove();
  if (hard) harden();
  return enter;
} });
})();0`;

/** Run once per context with \`$0\` the host function and \`$1\` whether to harden; its value is the guest's \`enter\`. */
export const ACTIVATE = `const boot = globalThis.${PARKED}; delete globalThis.${PARKED}; return boot($0, $1);`;

/** Names the prelude's exact text; executions replay only on an equal one. */
export const PRELUDE_VERSION = createHash('sha256')
  .update(PRELUDE)
  .update(ACTIVATE)
  .digest('hex')
  .slice(0, 16);
