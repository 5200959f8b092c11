/** OPTIONS.md and the code say the same, both ways. */
import { execFileSync } from 'node:child_process';
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { resolveOptions as resolveNats } from '../../src/bus/nats/options.ts';
import {
  checkAllEvents,
  checkMigrate,
  resolveExecute,
  resolveRun,
  resolveSpawn,
} from '../../src/client/options.ts';
import { ENVIRONMENT } from '../../src/env.ts';
import {
  createSystem,
  defineTool,
  Enclave,
  EnclaveBroker,
  EnclaveClient,
  EnclavePool,
  EnclaveRuntime,
  provideTools,
} from '../../src/index.ts';
import {
  resolveAdmission,
  resolvePoolOptions,
  resolveRuntimePool,
  resolveSessionLimits,
} from '../../src/options.ts';
import {
  amount,
  COMMANDS,
  defaultIn,
  GROUPS,
  helpOf,
  makeReference,
  optionsOf,
  readPage,
  ruleOf,
} from '../support/optiondocs.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const REGENERATE = 'npx node test/support/optiondocs.ts writes it anew';

const namesOf = (title: string): readonly string[] => {
  const group = GROUPS.find((each) => each.title === title);
  if (group === undefined) throw new Error(`there is no group ${title}`);
  return optionsOf(group).map(({ name }) => name);
};

describe('OPTIONS.md', () => {
  it('has each option, command and variable as the source has it, and no other', () => {
    expect(readPage().reference, REGENERATE).toBe(makeReference());
    // Every command of the program is started and asked for its help.
  }, 120_000);

  it('has every interface of options that the package exports', () => {
    const index = readFileSync(path.join(ROOT, 'src/index.ts'), 'utf8')
      .replace(/\/\*[\s\S]*?\*\//g, '')
      .replace(/ as \w+/g, '');
    const exported = [...index.matchAll(/\b(\w+(?:Options|Config|Limits))\b/g)].map(([, name = '']) => name);
    expect(exported.length).toBeGreaterThan(10);
    const shown = new Set(GROUPS.flatMap(({ name }) => name));
    const parts = new Set(
      GROUPS.flatMap((group) => optionsOf(group).map((each) => each.declared.split(' ')[0])),
    );
    const missing = exported.filter((name) => !shown.has(name) && !parts.has(name));
    // Parts of those that are shown, and what is no option of anything that a user makes.
    const elsewhere = [
      'EventsOptions', // is in AllEventsOptions
      'RoutingOptions', // is in CreateSystemOptions
      'SystemOptions', // is in CreateSystemOptions
      'Limits', // is in SessionLimitOptions
      'NatsConnectionOptions', // NatsOptions with a connection
      'ToolRegistryOptions', // is in EnclaveConfig
    ];
    const given = missing.filter((name) => !name.startsWith('Resolved'));
    expect(given.filter((name) => !elsewhere.includes(name))).toEqual([]);
  });

  it('says how a number is bounded and what it is if it is not given', () => {
    for (const group of GROUPS)
      for (const option of optionsOf(group)) {
        if (option.type !== 'number') continue;
        const what = `${group.title}: ${option.name}`;
        expect(defaultIn(option), `the default of ${what}`).toBeDefined();
        const bounded =
          ruleOf(option) !== undefined || /\d to |to \d|at least|\bid\b|Default: now/.test(option.text);
        expect(bounded, `the range of ${what}`).toBe(true);
      }
  });

  it('says of every number with a rule what the rule says', () => {
    // The upper bound of the first is another option; -1 and 0 have a meaning of their own in the others.
    const otherwise = ['minWorkers', 'maxReconnectAttempts', 'scaleUpThreshold'];
    let checked = 0;
    for (const group of GROUPS)
      for (const option of optionsOf(group)) {
        const rule = ruleOf(option);
        if (rule === undefined || otherwise.includes(option.name)) continue;
        const what = `${group.title}: ${option.name}`;
        expect(option.text, `the most of ${what}`).toContain(amount(rule.max, rule.unit));
        if (rule.min !== 0)
          expect(option.text, `the least of ${what}`).toContain(amount(rule.min, rule.unit));
        if (rule.default >= rule.min && option.name !== 'poolSize')
          expect(defaultIn(option), `the default of ${what}`).toContain(amount(rule.default, rule.unit));
        checked++;
      }
    expect(checked).toBeGreaterThan(50);
  });
});

// ---- what the code takes ---------------------------------------------------------------------------------

const UNKNOWN = { nonsense: 1 } as never;
const limits = resolveSessionLimits(undefined);
const defaults = { limits, isolation: 'context' } as const;

/** The keys that the refusal of an unknown one names. */
async function knownBy(attempt: () => unknown): Promise<readonly string[]> {
  let message = '';
  try {
    await attempt();
  } catch (error) {
    message = error instanceof Error ? error.message : '';
  }
  const [, list] =
    /nonsense: unknown(?: option|;| key)?[\s\S]*?(?:known ones are|has|one of) (.+)$/.exec(message) ?? [];
  if (list === undefined) throw new Error(`it was not refused as it should: ${message}`);
  return list.split(', ').map((key) => key.trim());
}

describe('the code takes what OPTIONS.md has, and nothing else', () => {
  it.each<readonly [string, () => unknown]>([
    ['createSystem', () => createSystem(UNKNOWN)],
    ['EnclaveBroker', () => new EnclaveBroker(UNKNOWN)],
    ['admission', () => resolveAdmission(UNKNOWN)],
    ['admission.tenants', () => resolveAdmission({ tenants: { one: UNKNOWN } })],
    ['runtimePool', () => resolveRuntimePool(UNKNOWN)],
    ['pool', () => resolvePoolOptions(UNKNOWN)],
    ['limits', () => resolveSessionLimits(UNKNOWN)],
    ['EnclaveRuntime', () => new EnclaveRuntime(UNKNOWN)],
    ['EnclaveClient', () => new EnclaveClient(UNKNOWN)],
    ['reconnection', () => new EnclaveClient({ reconnection: UNKNOWN })],
    ['spawnSession', () => resolveSpawn(UNKNOWN, defaults)],
    ['execute', () => resolveExecute('', UNKNOWN, limits)],
    ['run', () => resolveRun('', UNKNOWN, defaults)],
    ['events', () => checkAllEvents(UNKNOWN)],
    ['migrate', () => checkMigrate(UNKNOWN)],
    ['provideTools', () => provideTools('nats://127.0.0.1:1', [], UNKNOWN)],
    ['Enclave', () => new Enclave(UNKNOWN)],
    ['EnclavePool', () => new EnclavePool(1, {}, UNKNOWN)],
    ['nats', () => resolveNats(UNKNOWN, 'nats')],
    ['nats.reconnect', () => resolveNats({ servers: 'nats://127.0.0.1:1', reconnect: UNKNOWN }, 'nats')],
    ['nats.tls', () => resolveNats({ servers: 'nats://127.0.0.1:1', tls: UNKNOWN }, 'nats')],
  ])('of %s', async (title, attempt) => {
    // Checked apart from the numbers.
    const apart: Readonly<Record<string, readonly string[]>> = {
      pool: ['uid', 'gid'],
      admission: ['tenants'],
      runtimePool: ['labels'],
    };
    const known = [...(await knownBy(attempt)), ...(apart[title] ?? [])];
    expect([...new Set(known)].toSorted()).toEqual([...namesOf(title)].toSorted());
  });

  it('of Enclave.run', async () => {
    await using enclave = new Enclave();
    const known = await knownBy(() => enclave.run('', UNKNOWN));
    expect(known.toSorted()).toEqual([...namesOf('Enclave.run')].toSorted());
  });

  it('of defineTool', () => {
    const whole = { name: 'a', handler: () => 1 };
    expect(() => defineTool({ ...whole, nonsense: 1 } as never)).toThrow('nonsense');
    for (const name of namesOf('defineTool'))
      expect(() => defineTool({ [name]: undefined, ...whole })).not.toThrow();
  });

  it('of the workerPool of EnclaveRuntime', () => {
    for (const name of namesOf('workerPool'))
      expect(() => new EnclaveRuntime({ workerPool: { [name]: undefined } }), name).not.toThrow();
    expect(() => new EnclaveRuntime({ workerPool: UNKNOWN })).toThrow('nonsense');
  });
});

describe('no option is taken and forgotten', () => {
  const nats = 'nats://127.0.0.1:1';
  const redis = 'redis://127.0.0.1:1';
  /** No option may be one. */
  const wrong = (() => 1) as never;

  const doors: readonly (readonly [string, (given: Readonly<Record<string, unknown>>) => unknown])[] = [
    ['createSystem', (given) => createSystem({ nats, redis, roles: ['broker', 'runtime'], ...given })],
    ['EnclaveBroker', (given) => new EnclaveBroker({ redis, ...given })],
    ['EnclaveRuntime', (given) => new EnclaveRuntime(given)],
    ['workerPool', (given) => new EnclaveRuntime({ workerPool: given })],
  ];

  it.each(doors.flatMap(([title, open]) => namesOf(title).map((name) => [title, name, open] as const)))(
    'by %s: a wrong %s is refused by its name',
    async (title, name, open) => {
      // What it is called further in.
      const inside: Readonly<Record<string, string>> = {
        ...{ sessionTimeout: 'sessionTimeoutMs', heartbeatInterval: 'heartbeatIntervalMs' },
        ...{ size: 'poolSize', maxMemory: 'maxWorkerMemory' },
      };
      // Alone, a provisioner is refused whatever it is.
      const beside = name === 'provisioner' ? { runtimePool: {} } : {};
      const refused = async (): Promise<unknown> => open({ ...beside, [name]: wrong });
      await expect(refused(), title).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
        key: expect.stringMatching(new RegExp(`(^|\\.)(${name}|${inside[name] ?? name})$`)),
      });
    },
  );

  it('by EnclaveBroker: one that is undefined is one that was not given', () => {
    for (const name of namesOf('EnclaveBroker').filter((each) => each !== 'redis'))
      expect(() => new EnclaveBroker({ redis, [name]: undefined }), name).not.toThrow();
  });
});

describe('the command line', () => {
  it('has the commands that OPTIONS.md has, and no other', () => {
    const below = (command: string): readonly string[] => {
      const [, list = ''] = /\nCommands:\n([\s\S]*?)(?:\n\n|$)/.exec(helpOf(command)) ?? [];
      const names = [...list.matchAll(/^ {2}(\w[\w-]*)/gm)].map(([, name = '']) => name);
      const own = names.filter((name) => name !== 'help');
      if (own.length === 0) return [command];
      return own.flatMap((name) => below(`${command} ${name}`.trim()));
    };
    expect(below('').toSorted()).toEqual([...COMMANDS].toSorted());
  }, 60_000);

  it('tells of variables that there are', () => {
    const named = COMMANDS.flatMap((command) => [...helpOf(command).matchAll(/\((ENCLAVE_\w+)\)/g)]);
    expect(named.length).toBeGreaterThan(20);
    for (const [, name = ''] of named) expect(Object.keys(ENVIRONMENT)).toContain(name);
  }, 60_000);
});

describe('the environment', () => {
  const files = globSync('src/**/*.ts', { cwd: ROOT });
  const code = files.map((file) => [file, readFileSync(path.join(ROOT, file), 'utf8')] as const);

  it('is read by one module, and each of its variables is', () => {
    const read = new Set(
      code.flatMap(([, text]) =>
        [...text.matchAll(/(?:fromEnv|numberFromEnv|\w*Env)\(\s*'(ENCLAVE_\w+)'/g)].map(
          ([, name = '']) => name,
        ),
      ),
    );
    const unread = Object.keys(ENVIRONMENT).filter((name) => {
      const uses = code.flatMap(([, text]) => [...text.matchAll(new RegExp(`['"]${name}['"]`, 'g'))]);
      return !read.has(name) && uses.length === 0;
    });
    expect(unread).toEqual([]);
    expect([...read].filter((name) => !Object.hasOwn(ENVIRONMENT, name))).toEqual([]);
  });

  it('has no variable in any document that is not in the list', () => {
    // Those of the server's own file are its passwords.
    const servers =
      readFileSync(path.join(ROOT, 'nats.conf'), 'utf8').match(/\bENCLAVE_[A-Z_]*[A-Z]\b/g) ?? [];
    const pages = execFileSync('find', [ROOT, '-maxdepth', '1', '-name', '*.md'], { encoding: 'utf8' });
    for (const page of pages.trim().split('\n'))
      for (const [, name = ''] of readFileSync(page, 'utf8').matchAll(/\b(ENCLAVE_[A-Z][A-Z_]*[A-Z])\b/g))
        expect([...Object.keys(ENVIRONMENT), ...servers], `${path.basename(page)} names ${name}`).toContain(
          name,
        );
  });
});
