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
const SURVIVES = [
  /state +\{"tickets":\[\]\}/,
  /script +ticket \d+ is paid by charge 1$/,
  /SIGKILL +worker w\d+ of runtime-[12], process \d+/,
  /script +finished: ticket \d+, begun on runtime-(1, ended on runtime-2|2, ended on runtime-1)$/,
  /card +charged: 1; attempts of the script: 2/,
  /state +\{"tickets":\[\d+\]\}/,
];
const MOVES = [
  /owner +broker-[12], epoch \d+/,
  /migrate +from (broker-1 to broker-2|broker-2 to broker-1), in [\d.]+ ms/,
  /script +line 8 +event \d+/,
  /script +finished: "all 8 lines"/,
  /events +\d+ to \d+, no gap; attempts of the script: 1/,
  /pause +[\d.]+ ms between the lines around it; elsewhere up to [\d.]+ ms/,
  /state +\{.*"lines":8\}/,
];
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
  '09-sessions.ts': [
    /^ {2}value: 'Hello, Ada',$/,
    /^Hello again, Ada$/,
    /^ {2}status: 'idle',$/,
    /^ {2}owner: 'broker-1',$/,
    /^ {2}state: \{ user: \{ name: 'Ada' \} \},?$/,
  ],
  '10-state.ts': [
    /a chair +2 in the cart/,
    /a voucher +SCRIPT_ERROR this voucher has expired/,
    /a long note +STATE_LIMIT_EXCEEDED .*maxStateBytes \(1000\)/,
    /a table +3 in the cart/,
    /state +\{"items":\["lamp","chair","table"\],"cents":22900\}/,
  ],
  '11-session-events.ts': [
    /^ +1 {2}session_init/,
    /^ +4 {2}stdout +3 books on shelf 3/,
    /^ +8 {2}final +ok/,
    /returned +a good book/,
    /ana +two/,
    /ben +due/,
    /ana +done/,
    /ben +done/,
  ],
  '12-migration.ts': MOVES,
  '13-crash-and-resume.ts': SURVIVES,
  '14-rerun.ts': [
    /total +the total cannot be NaN/,
    /3 {2}call +#1 catalogue\.get "chair"/,
    /4 {2}handed +#1 \{"price":8000\}/,
    /verdict +same: it ended as it did then/,
    /tool +called 3 times, as before/,
  ],
  '15-plain-nats-events.ts': [
    /^ +3 tool_call +\{"to":"Lisbon"\}$/,
    /missed +3 events/,
    /^ +7 log +"nobody hears this"$/,
    /^ +11 final +true$/,
    /events +1 to 11, each once, no gap/,
  ],
  '16-guide-cluster.ts': [
    /script +Hello, Ada/,
    /state +\{"greeted":2\}/,
    /owner +broker-\w+/,
    /stateless +42/,
    /runtime +exit code 0/,
    /broker +exit code 0/,
  ],
  '17-traces.ts': [
    /^order +[\d.]+ ms$/,
    /^ {2}enclave\.execute +[\d.]+ ms$/,
    /^ {4}enclave\.execution +[\d.]+ ms$/,
    /^ {6}enclave\.attempt +[\d.]+ ms$/,
    /^ {8}enclave\.worker +[\d.]+ ms$/,
    /^ {6}enclave\.call +[\d.]+ ms {2}stock\.count$/,
    /^ {8}enclave\.tool +[\d.]+ ms {2}stock\.count$/,
    /^ {10}select from stock +[\d.]+ ms$/,
    /^traces +1$/,
  ],
  'demo.ts': [
    ...AGENT,
    ...HOSTILE,
    ...CRASH,
    ...SURVIVES,
    ...MOVES,
    ...RECYCLING,
    ...TREE,
    /[1-9]\d* scripts\/s on 2 workers/,
  ],
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
