/**
 * The brokers' incarnation leases, roles of which there is one, and numbers that are shared; all by the server's clock.
 *
 * S5: an incarnation is a key that says when it ends. It stays for {@link REMEMBERED_MS} after that, so that an
 * id that was used is refused and a late renewal finds a lease that is over. Ids are long and random, or count
 * up with a clock; that is how long a repeated one is noticed, and it bounds the memory: some hundred bytes per
 * process of that time.
 *
 * A fail-over that loses writes may forget a renewal: then the lease ends earlier. It may forget an end, or
 * meet a clock that is behind: then an incarnation that was taken for dead is alive again. It cannot write to
 * any session that was taken over meanwhile, for that has another epoch.
 */
import { checkId, checkShare, checkTtl } from '../checks.ts';
import type { Share, ShareReply } from '../store.ts';
import { isId, type Keys } from './keys.ts';
import { END, HOLD, LEFT, OPEN, RELEASE, RENEW, SHARE, TIME } from './scripts.ts';
import type { Call, Wire } from './wire.ts';

/** 30 days. */
const REMEMBERED_MS = 2_592_000_000;
/** A century: as good as for ever, and far from where numbers lose digits. */
const MAX_TTL_MS = 3_155_760_000_000;

export class Leases {
  readonly #wire: Wire;
  readonly #keys: Keys;

  constructor(wire: Wire, keys: Keys) {
    this.#wire = wire;
    this.#keys = keys;
  }

  async open(call: Call, incarnation: string, ttlMs: number): Promise<boolean> {
    checkId('incarnation', incarnation);
    return (await this.#set(call, OPEN, incarnation, ttlMs)) === 1;
  }

  async renew(call: Call, incarnation: string, ttlMs: number): Promise<boolean> {
    checkTtl(ttlMs);
    return isId(incarnation) && (await this.#set(call, RENEW, incarnation, ttlMs)) === 1;
  }

  async end(call: Call, incarnation: string): Promise<void> {
    if (!isId(incarnation)) return;
    await this.#write(call, END, this.#keys.incarnation(incarnation), [REMEMBERED_MS]);
  }

  /** How long it lives if it is not renewed, in ms; 0 if it is dead. */
  async left(call: Call, incarnation: string): Promise<number> {
    if (!isId(incarnation)) return 0;
    const left = await this.#wire.readStep(call, LEFT, [this.#keys.incarnation(incarnation)], []);
    return Math.max(0, left as number);
  }

  async hold(call: Call, role: string, holder: string, ttlMs: number): Promise<boolean> {
    checkId('role', role);
    checkId('holder', holder);
    checkTtl(ttlMs);
    // S11: a grant that a fail-over forgets would be made twice.
    const granted = (reply: unknown): boolean => reply === 1;
    return granted(
      await this.#wire.write(call, HOLD, [this.#keys.role(role)], [holder, whole(ttlMs)], granted),
    );
  }

  async release(call: Call, role: string, holder: string): Promise<void> {
    checkId('role', role);
    checkId('holder', holder);
    await this.#write(call, RELEASE, this.#keys.role(role), [holder]);
  }

  /** S13. What a fail-over forgets is told again with the holder's next word. */
  async share(call: Call, share: Share): Promise<ShareReply> {
    checkShare(share);
    const { name, holder, has, ttlMs, most } = share;
    const asks = (reply: unknown): boolean => most !== undefined && (reply as [number, number])[0] === 1;
    const [granted, total] = (await this.#wire.write(
      call,
      SHARE,
      [...this.#keys.share(name)],
      [holder, has, whole(ttlMs), most ?? ''],
      asks,
    )) as [number, number];
    return { granted: granted === 1, total };
  }

  /** By the clock of one server, always of the same as long as the slots stay where they are. */
  async time(call: Call): Promise<number> {
    return (await this.#wire.readStep(call, TIME, [this.#keys.role('clock')], [])) as number;
  }

  #set(call: Call, script: typeof OPEN, incarnation: string, ttlMs: number): Promise<unknown> {
    checkTtl(ttlMs);
    return this.#write(call, script, this.#keys.incarnation(incarnation), [whole(ttlMs), REMEMBERED_MS]);
  }

  /** A lease that is lost ends early: no replica need have it. */
  #write(call: Call, script: typeof OPEN, key: string, args: readonly (string | number)[]): Promise<unknown> {
    return this.#wire.write(call, script, [key], args, () => false);
  }
}

/** Redis counts in whole ms. */
function whole(ttlMs: number): number {
  return Math.min(Math.ceil(ttlMs), MAX_TTL_MS);
}
