/** Every example and the demo, run as a reader would run them. */
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';

const root = path.join(import.meta.dirname, '..');
const examples = path.join(root, 'examples');

/** What an example prints, line by line. Rejects unless it exits with code 0. */
async function run(file: string, env: NodeJS.ProcessEnv = {}): Promise<string[]> {
  const { FORCE_COLOR: _force, NO_COLOR: _no, ...inherited } = process.env;
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [path.join(examples, file)], {
    cwd: root,
    env: { ...inherited, ...env },
    timeout: 60_000,
  });
  expect(stderr).toBe('');
  return stdout.split('\n');
}

/** What each example must say; `EXPECTED` has a line for every example. */
const AGENT = [
  /^ +1 {2}session_init/,
  /tool_call +#0 +parks\.near \{"city":"Lisbon"\}/,
  /stdout +4 parks in Lisbon/,
  /log +warn: left out: too wet/,
  /tool_result_applied #9 +ok/,
  /final +ok/,
  /returned +Jardim Gulbenkian, 9 minutes away/,
];
const HOSTILE = [
  /memory bomb +MEMORY_LIMIT_EXCEEDED +after/,
  /endless loop +CPU_LIMIT_EXCEEDED +after/,
  /endless wait +EXECUTION_TIMEOUT +after/,
  /neighbour +finished, [1-9]\d* heartbeats meanwhile/,
];
const CRASH = [
  /SIGKILL +worker w\d+, process \d+/,
  /pool +The worker was lost; the script is started again/,
  /script +finished: "receipt for p-1001"/,
  /supervisor +restarts: 1; worker \d+ is gone/,
  /payments +charged: 1; attempts of the script: 2/,
];
const RECYCLING = [/scripts +\d+ run, 0 lost/, /workers +([4-9]|\d\d+) recycled/, /crashes +0/];
const TREE = [/^ +system$/, /└─ pool +open/, /[├└]─ w\d+ +pid \d+ +ready/];
const EXPECTED: Readonly<Record<string, readonly RegExp[]>> = {
  '01-hello.ts': [/^Hello, isolated world!$/],
  '02-agent-task.ts': [
    /declare function callTool\(name: "parks:near", args: \{ city: string \}\)/,
    /interface Choice/,
    ...AGENT,
  ],
  '03-limits.ts': HOSTILE,
  '04-crash-and-restart.ts': [...CRASH, ...TREE],
  '05-recycling.ts': [...RECYCLING, ...TREE],
  '06-enclave-pool.ts': [/the script returned 42/, /waiting +3/, /caller 5 +25/, /idle +2/],
  '07-guide.ts': [
    /run +\{"tool":"users:get","args":\{"id":7\}\}/,
    /the guide says +\d+ workers/,
    /execute +2, 4, 6/,
  ],
  '08-metrics.ts': [
    /^enclave_executions_total\{outcome="completed",code="OK"\} 200$/,
    /^enclave_executions_total\{outcome="completed",code="CPU_LIMIT_EXCEEDED"\} 1$/,
    /^enclave_execution_latency_seconds_count 202$/,
    /^enclave_runtime_health\{runtime_id="embedded"\} 1$/,
  ],
  'demo.ts': [...AGENT, ...HOSTILE, ...CRASH, ...RECYCLING, ...TREE, /[1-9]\d* scripts\/s on 2 workers/],
};

describe('an example', () => {
  it.each(readdirSync(examples).filter((file) => file.endsWith('.ts')))(
    'runs by itself: %s',
    async (file) => {
      const lines = await run(file);
      const expected = EXPECTED[file];
      expect(expected, `${file} has no expectations here`).toBeDefined();
      for (const line of expected ?? []) expect(lines).toContainEqual(expect.stringMatching(line));
      // No colours where nobody looks, and no blanks at the ends of lines.
      expect(lines.filter((line) => line.includes('\u001B') || / $/.test(line))).toEqual([]);
    },
    70_000,
  );

  it('is coloured where colour is asked for, and not against NO_COLOR', async () => {
    expect((await run('06-enclave-pool.ts', { FORCE_COLOR: '1' })).join('\n')).toContain('\u001B[');
    expect((await run('06-enclave-pool.ts', { NO_COLOR: '1' })).join('\n')).not.toContain('\u001B');
  });
});
