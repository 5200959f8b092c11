/** What a broker takes on for each tenant, by a clock that the test moves. */
import { beforeEach, describe, expect, it } from 'vitest';
import type { Full } from '../../src/losses.ts';
import { type AdmissionOptions, resolveAdmission } from '../../src/options.ts';
import { Admission, type Refused } from '../../src/session/admission.ts';

let now: number;
let full: Full[];
let waiting: Map<string, number>;
let turnMs: number;

beforeEach(() => {
  now = 1_000_000;
  full = [];
  waiting = new Map();
  turnMs = 20;
});

function admission(options: AdmissionOptions): Admission {
  return new Admission({
    clock: { monotonic: () => now },
    rules: resolveAdmission(options),
    waiting: {
      get size() {
        return [...waiting.values()].reduce((sum, each) => sum + each, 0);
      },
      of: (tenant) => waiting.get(tenant) ?? 0,
      turnMs: () => turnMs,
    },
    losses: { overloaded: (what) => full.push(what) },
  });
}

let keys = 0;
const admit = (to: Admission, tenant: string, key = `k${keys++}`): 'known' | 'admitted' | Refused =>
  to.admit(tenant, key);
const refusal = (answer: 'known' | 'admitted' | Refused): Refused => {
  if (typeof answer === 'string') expect.fail(`it was ${answer}`);
  return answer as Refused;
};

describe('a rate', () => {
  it('lets a burst in, then so many a second, and tells when the next one may come', () => {
    const gate = admission({ ratePerSecond: 10, burst: 3 });
    for (let n = 0; n < 3; n++) expect(admit(gate, 'a')).toBe('admitted');
    const refused = refusal(admit(gate, 'a'));
    expect(refused).toMatchObject({ limit: 'rate', retryAfterMs: 100, position: 1 });
    now += 99;
    expect(admit(gate, 'a')).toMatchObject({ limit: 'rate' });
    now += 1;
    expect(admit(gate, 'a')).toBe('admitted');
    expect(admit(gate, 'a')).toMatchObject({ limit: 'rate' });
    expect(full).toEqual(['tenant', 'tenant', 'tenant']);
  });

  it('holds for each tenant by itself, and each may have its own', () => {
    const gate = admission({
      ratePerSecond: 1,
      tenants: { big: { ratePerSecond: 100 }, none: { weight: 2 } },
    });
    expect([admit(gate, 'a'), admit(gate, 'b'), admit(gate, 'none')]).toEqual([
      'admitted',
      'admitted',
      'admitted',
    ]);
    expect(admit(gate, 'a')).toMatchObject({ limit: 'rate' });
    expect(admit(gate, 'none')).toMatchObject({ limit: 'rate' });
    for (let n = 0; n < 100; n++) expect(admit(gate, 'big')).toBe('admitted');
    expect(admit(gate, 'big')).toMatchObject({ limit: 'rate' });
  });

  it('tells those who are refused to come one after the other, and no later than a minute', () => {
    const gate = admission({ ratePerSecond: 10, burst: 1 });
    admit(gate, 'a');
    const told = Array.from({ length: 5 }, () => refusal(admit(gate, 'a')));
    expect(told.map(({ retryAfterMs }) => retryAfterMs)).toEqual([100, 200, 300, 400, 500]);
    expect(told.map(({ position }) => position)).toEqual([1, 2, 3, 4, 5]);
    for (let n = 0; n < 5_000; n++)
      expect(refusal(admit(gate, 'a')).retryAfterMs).toBeLessThanOrEqual(60_000);
    // Nobody came back: the line is gone, and the next one need not stand in it.
    now += 120_000;
    expect(admit(gate, 'a')).toBe('admitted');
    expect(refusal(admit(gate, 'a'))).toMatchObject({ retryAfterMs: 100, position: 1 });
  });

  it('is not charged for what is here already, nor for what another limit refused', () => {
    const gate = admission({ ratePerSecond: 1, burst: 2, maxConcurrent: 1 });
    expect(admit(gate, 'a', 'x')).toBe('admitted');
    for (let n = 0; n < 5; n++) expect(admit(gate, 'a', 'x')).toBe('known');
    for (let n = 0; n < 5; n++) expect(admit(gate, 'a')).toMatchObject({ limit: 'concurrency' });
    gate.free('a', 'x', true);
    expect(admit(gate, 'a')).toBe('admitted');
  });
});

describe('concurrency', () => {
  it('is what is here: an end makes room, whatever became of it', () => {
    const gate = admission({ maxConcurrent: 2 });
    admit(gate, 'a', 'x');
    admit(gate, 'a', 'y');
    gate.hold('a', 'x');
    expect(admit(gate, 'a')).toMatchObject({ limit: 'concurrency', position: 1 });
    expect(admit(gate, 'b')).toBe('admitted');
    gate.free('a', 'x', true);
    gate.free('a', 'x', true);
    expect(gate.hereOf('a')).toBe(1);
    expect(admit(gate, 'a')).toBe('admitted');
  });

  it('counts what came with a session, which may pass it', () => {
    const gate = admission({ maxConcurrent: 1 });
    for (const key of ['x', 'y', 'z']) gate.hold('a', key);
    expect(gate.hereOf('a')).toBe(3);
    for (const key of ['x', 'y']) gate.free('a', key);
    expect(admit(gate, 'a')).toMatchObject({ limit: 'concurrency' });
    gate.free('a', 'z');
    expect(admit(gate, 'a')).toBe('admitted');
  });

  it('tells to come back when one is likely to have ended', () => {
    const gate = admission({ maxConcurrent: 2 });
    for (let n = 0; n < 200; n++) {
      admit(gate, 'a', 'x');
      now += 1_000;
      gate.free('a', 'x', true);
    }
    admit(gate, 'a');
    admit(gate, 'a');
    const { retryAfterMs } = refusal(admit(gate, 'a'));
    // Two at a time, of a second each: one ends every half second.
    expect(retryAfterMs).toBeGreaterThan(490);
    expect(retryAfterMs).toBeLessThanOrEqual(500);
  });
});

describe('what waits for room', () => {
  it('leaves as much free as any tenant has of it', () => {
    const gate = admission({ maxWaiting: 10 });
    waiting.set('a', 4);
    expect(admit(gate, 'a', 'x')).toBe('admitted');
    expect(admit(gate, 'a')).toMatchObject({ limit: 'queue' }); // One is still on its way in.
    gate.hold('a', 'x');
    waiting.set('a', 5);
    expect(admit(gate, 'a')).toMatchObject({ limit: 'queue', retryAfterMs: 40, position: 2 });
    expect(admit(gate, 'b')).toBe('admitted');
    expect(full).toEqual(['waiting', 'waiting']);
  });

  it('is bounded, however many tenants flood', () => {
    const gate = admission({ maxWaiting: 100 });
    for (let n = 0; n < 2_000; n++) {
      const tenant = `t${n % 20}`;
      if (admit(gate, tenant, `w${n}`) !== 'admitted') continue;
      gate.hold(tenant, `w${n}`);
      waiting.set(tenant, (waiting.get(tenant) ?? 0) + 1);
    }
    const all = [...waiting.values()].reduce((sum, each) => sum + each, 0);
    expect(all).toBeLessThan(100);
    expect(all).toBeGreaterThan(80);
    expect(admit(gate, 'new')).toBe('admitted');
  });

  it('is 2,000 unless it is said otherwise', () => {
    const gate = admission({});
    waiting.set('a', 999);
    expect(admit(gate, 'a', 'x')).toBe('admitted');
    gate.hold('a', 'x');
    waiting.set('a', 1_000);
    expect(admit(gate, 'a')).toMatchObject({ limit: 'queue' });
  });
});

describe('tenants', () => {
  it('of whom there is nothing to know are forgotten', () => {
    const gate = admission({ ratePerSecond: 10, burst: 1 });
    for (let n = 0; n < 50; n++) {
      admit(gate, `t${n}`, 'x');
      gate.free(`t${n}`, 'x', true);
    }
    gate.sweep();
    expect(gate.size).toBe(50);
    now += 100;
    gate.sweep();
    expect(gate.size).toBe(0);
  });

  it('have the weight that they were given', () => {
    const gate = admission({ tenants: { big: { weight: 4 }, default: { weight: 0.5 } } });
    expect([gate.weightOf('big'), gate.weightOf('default'), gate.weightOf('x')]).toEqual([4, 0.5, 1]);
  });
});

describe('the options', () => {
  it.each([
    [{ maxConcurrent: 0 }, 'admission.maxConcurrent'],
    [{ ratePerSecond: 0 }, 'admission.ratePerSecond'],
    [{ burst: 5 }, 'admission.burst'],
    [{ maxWaiting: 0.5 }, 'admission.maxWaiting'],
    [{ weight: 2 }, 'admission.weight'],
    [{ tenants: { a: { weight: 0 } } }, 'admission.tenants.a.weight'],
    [{ tenants: { a: { burst: 2 } } }, 'admission.tenants.a.burst'],
    [{ tenants: { a: { maxWaiting: 2 } } }, 'admission.tenants.a.maxWaiting'],
    [{ tenants: { '': {} } }, 'admission.tenants.'],
    [{ tenants: [] }, 'admission.tenants'],
  ] as readonly (readonly [AdmissionOptions, string])[])('%j is refused by name: %s', (options, key) => {
    expect(() => resolveAdmission(options)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', key }),
    );
  });

  it('have an undefined one mean the default', () => {
    expect(resolveAdmission({ maxConcurrent: undefined, tenants: undefined })).toEqual(resolveAdmission());
  });

  it('give a tenant with a rate of its own a burst of its own', () => {
    const { tenants } = resolveAdmission({
      ratePerSecond: 100,
      burst: 7,
      tenants: { slow: { ratePerSecond: 0.5 }, same: { weight: 2 } },
    });
    expect(tenants.get('slow')).toMatchObject({ ratePerSecond: 0.5, burst: 1 });
    expect(tenants.get('same')).toMatchObject({ ratePerSecond: 100, burst: 7, weight: 2 });
  });
});
