/** The tools of the benchmark's broker pods. */

import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { answerTool } from '../scripts.ts';
import { defineTool } from './built.ts';

/** Where this module is, as `--tools` takes it. */
export const TOOLS = fileURLToPath(import.meta.url);

/** The two that throughput is measured with: they answer at once, and differ in what a call has to commit. */
export const userTools = [
  defineTool({ name: 'users:get', effect: 'read', handler: (args) => answerTool('users:get', args) }),
  defineTool({ name: 'users:put', effect: 'unsafe', handler: (args) => answerTool('users:get', args) }),
];

export default [
  ...userTools,
  defineTool({
    name: 'pace:wait',
    effect: 'read',
    handler: async (args, { signal }) => {
      const { ms } = args as { readonly ms: number };
      await sleep(ms, undefined, { signal });
      return ms;
    },
  }),
];
