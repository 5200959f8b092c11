import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  EMPTY_MAILBOX,
  type Mailbox,
  next,
  post,
  take,
  type Waiting,
  waitingIn,
  withdraw,
} from '../../actors/mailbox.ts';

/** `a1` is the execution 1 of tenant `a`. */
const waiting = (id: string): Waiting => ({ id, tenant: id.slice(0, 1), key: id });
const posted = (...ids: readonly string[]): Mailbox =>
  ids.reduce((mailbox, id) => post(mailbox, waiting(id)), EMPTY_MAILBOX);

/** Everything in the order in which it is served. */
function served(mailbox: Mailbox): readonly string[] {
  const ids: string[] = [];
  for (let rest = mailbox, head = next(rest); head !== undefined; head = next(rest)) {
    ids.push(head.id);
    rest = take(rest);
  }
  return ids;
}

const orders: readonly {
  readonly claim: string;
  readonly mailbox: Mailbox;
  readonly order: readonly string[];
}[] = [
  { claim: 'serves nobody when it is empty', mailbox: EMPTY_MAILBOX, order: [] },
  {
    claim: 'serves one tenant in the order of arrival',
    mailbox: posted('a1', 'a2', 'a3'),
    order: ['a1', 'a2', 'a3'],
  },
  {
    claim: 'serves a late tenant after one execution of an early one, not after all of them',
    mailbox: posted('a1', 'a2', 'a3', 'b1'),
    order: ['a1', 'b1', 'a2', 'a3'],
  },
  {
    claim: 'serves tenants in turn',
    mailbox: posted('a1', 'a2', 'b1', 'b2', 'c1'),
    order: ['a1', 'b1', 'c1', 'a2', 'b2'],
  },
  {
    claim: 'skips what was withdrawn and keeps the turn of its tenant',
    mailbox: withdraw(posted('a1', 'a2', 'b1'), 'a1'),
    order: ['a2', 'b1'],
  },
  {
    claim: 'forgets a tenant whose last execution was withdrawn',
    mailbox: post(withdraw(posted('a1', 'b1'), 'a1'), waiting('a2')),
    order: ['b1', 'a2'],
  },
  {
    claim: 'serves a tenant that was just served after the one that waits',
    mailbox: post(take(posted('a1', 'b1')), waiting('a2')),
    order: ['b1', 'a2'],
  },
];

describe('a mailbox', () => {
  it.each(orders)('$claim', ({ mailbox, order }) => {
    expect([served(mailbox), mailbox.size]).toEqual([order, order.length]);
  });

  it('is the same mailbox when what is withdrawn does not wait in it', () => {
    const mailbox = posted('a1');
    expect(withdraw(mailbox, 'b1')).toBe(mailbox);
  });

  it('is the same mailbox when something is taken from it though it is empty', () => {
    expect(take(EMPTY_MAILBOX)).toBe(EMPTY_MAILBOX);
  });

  it('lists what waits tenant by tenant', () => {
    expect(waitingIn(posted('a1', 'b1', 'a2')).map(({ id }) => id)).toEqual(['a1', 'a2', 'b1']);
  });

  it.each(['__proto__', 'constructor', 'toString', ''])('takes a tenant called %j for a tenant', (tenant) => {
    const mailbox = post(posted('a1'), { id: 'x', tenant, key: 'x' });
    expect(served(mailbox)).toEqual(['a1', 'x']);
    expect(withdraw(mailbox, 'x').size).toBe(1);
  });

  type Operation =
    | { readonly op: 'post'; readonly tenant: string }
    | { readonly op: 'take' }
    | { readonly op: 'withdraw'; readonly pick: number };
  const operation: fc.Arbitrary<Operation> = fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({ op: fc.constant('post' as const), tenant: fc.constantFrom('a', 'b', 'c', 'd') }),
    },
    { weight: 3, arbitrary: fc.record({ op: fc.constant('take' as const) }) },
    fc.record({ op: fc.constant('withdraw' as const), pick: fc.nat() }),
  );

  it('hands out everything once, each tenant in order, none passed over twice by the same other', () => {
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 80 }), (operations) => {
        let mailbox = EMPTY_MAILBOX;
        let count = 0;
        /** What waits, by tenant, in the order of arrival. */
        const model = new Map<string, string[]>();
        /** How often each other tenant was served while this one waited for its turn. */
        const passed = new Map<string, Map<string, number>>();
        for (const step of operations) {
          if (step.op === 'post') {
            const id = `${step.tenant}${count++}`;
            mailbox = post(mailbox, waiting(id));
            const queue = model.get(step.tenant);
            if (queue !== undefined) queue.push(id);
            else {
              model.set(step.tenant, [id]);
              passed.set(step.tenant, new Map());
            }
          } else if (step.op === 'take') {
            const head = next(mailbox);
            mailbox = take(mailbox);
            if (head === undefined) {
              expect(model.size).toBe(0);
              continue;
            }
            expect(model.get(head.tenant)?.shift()).toBe(head.id);
            if (model.get(head.tenant)?.length === 0) model.delete(head.tenant);
            passed.set(head.tenant, new Map());
            for (const other of model.keys()) {
              if (other === head.tenant) continue;
              const times = (passed.get(other)?.get(head.tenant) ?? 0) + 1;
              expect(times).toBe(1);
              passed.get(other)?.set(head.tenant, times);
            }
          } else {
            const ids = [...model.values()].flat();
            const id = ids[step.pick % Math.max(1, ids.length)];
            if (id === undefined) continue;
            mailbox = withdraw(mailbox, id);
            const tenant = id.slice(0, 1);
            const rest = model.get(tenant)?.filter((other) => other !== id) ?? [];
            if (rest.length > 0) model.set(tenant, rest);
            else model.delete(tenant);
          }
          const left = [...model.values()].flat();
          expect(mailbox.size).toBe(left.length);
          expect(
            waitingIn(mailbox)
              .map(({ id }) => id)
              .toSorted(),
          ).toEqual(left.toSorted());
        }
      }),
    );
  });
});
