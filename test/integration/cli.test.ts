/** The command line, run as an operator would run it. */
import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createSystem, defineTool, type ExecutionJournal } from '../../src/index.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const SCRIPT = `console.log('rolling');
const first = await tools.dice.roll({ sides: 6 });
await sleep(3);
try { await tools.dice.lose(); } catch (error) { console.warn(error.message); }
return first * 10 + Math.floor(Math.random() * 10);`;

let folder: string;
let journal: ExecutionJournal;
let value: unknown;
let rolls = 0;

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'enclave-cli-'));
  await using system = await createSystem({
    pool: { poolSize: 1 },
    tools: [
      defineTool({ name: 'dice:roll', handler: () => ++rolls }),
      defineTool({
        name: 'dice:lose',
        handler: () => {
          throw new Error('it fell off the table');
        },
      }),
    ],
  });
  const session = await system.spawnSession();
  const run = session.execute(SCRIPT);
  const result = await run.result;
  value = result.success ? result.value : result.error;
  journal = await system.journal(run.id, { sessionId: session.id });
});

afterAll(() => rm(folder, { recursive: true, force: true }));

async function enclave(...args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
  const cli = path.join(ROOT, 'src/cli.ts');
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, [cli, ...args], { cwd: ROOT });
    return { code: 0, out: stdout, err: stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, out: stdout, err: stderr };
  }
}

async function rerunOf(content: unknown): ReturnType<typeof enclave> {
  const file = path.join(folder, `${Math.random()}.json`);
  await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content));
  return enclave('rerun', file);
}

describe('enclave rerun', () => {
  it('shows what the script did, calls no tool, and says that it did the same', async () => {
    const { code, out } = await rerunOf(journal);
    expect(out.split('\n')).toEqual([
      'log       rolling',
      'call      #0 dice.roll({"sides":6})',
      'handed    #0 1',
      'sleep     #1 3 ms',
      'handed    #1 undefined',
      'call      #2 dice.lose()',
      expect.stringMatching(/^handed {4}#2 TOOL_ERROR: .*it fell off the table/),
      expect.stringMatching(/^warn {6}.*it fell off the table/),
      `returned  ${JSON.stringify(value)}`,
      'verdict   same',
      '',
    ]);
    expect(code).toBe(0);
    expect(rolls).toBe(1);
  });

  it('says where a journal and its script part', async () => {
    const [first, ...others] = journal.calls;
    const { code, out } = await rerunOf({
      ...journal,
      calls: [{ ...first, args: '{"sides":20}' }, ...others],
    });
    expect(out).toContain(
      'verdict   different: at index 0 it made call dice.roll({"sides":6}); the journal has',
    );
    expect(code).toBe(1);
  });

  it('says so if the execution ran on another engine, and runs nothing', async () => {
    const versions = { engine: '1.2.3', prelude: 'x', stripper: 'y' };
    const { code, out } = await rerunOf({ ...journal, versions });
    expect(out).toMatch(/^verdict {3}engine_mismatch: it ran on engine 1\.2\.3/);
    expect(code).toBe(1);
  });

  it('refuses what is no journal, and a file that is not there', async () => {
    expect(await rerunOf('{"a":1}')).toMatchObject({
      code: 2,
      err: expect.stringContaining('is not the journal'),
    });
    expect(await rerunOf('{')).toMatchObject({ code: 2, err: expect.stringContaining('JSON') });
    expect(await enclave('rerun', path.join(folder, 'none.json'))).toMatchObject({
      code: 2,
      err: expect.stringContaining('ENOENT'),
    });
  });

  it.each([
    [[], /Usage: enclave/],
    [['rerun'], /missing required argument 'journal'[\s\S]*--help/],
    [['walk', 'x'], /unknown command 'walk'[\s\S]*--help/],
    [['runtime', '--pool-size', 'two'], /--pool-size: must be a whole number/],
  ] as const)('says what it did not understand in %j', async (args, said) => {
    expect(await enclave(...args)).toMatchObject({ code: 2, err: expect.stringMatching(said) });
  });
});
