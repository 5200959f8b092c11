/**
 * Every key, built in one place.
 *
 * The braces are hash tags: in a Redis Cluster all keys with the same text in braces are on one node. All keys
 * of a session share a slot (`session:{id}`, the guide's names), so that a script may write them in one step.
 * So do the keys of the work index, and those of each part of the wake index.
 *
 *   session:{id}            hash: owner, epoch, nonce, version, snapshot, …; the port's fields begin with `:`
 *   session:{id}:events     stream; the event number n has the id `n-0`
 *   session:{id}:tools      set of the executions that have a journal
 *   session:{id}:tools:<x>  list: the journal of execution x
 *   incarnation:<id>        when it ends, in ms of the server's clock; kept for a time after that
 *   role:<role>             who has it, for as long as he has it
 *   share:{<name>}:has      hash: what each holder has of a shared number
 *   share:{<name>}:ends     hash: when that ends, in ms of the server's clock
 *   owners:{work}           set of the incarnations that have entries in the work index
 *   work:{work}:<owner>     sorted set: sessions by cover (see indexes.ts); without an owner, nobody's
 *   wakes:{wake<n>}         sorted set: sessions by the time of their wake
 *   covers:{wake<n>}        hash: the cover of each entry of that part
 */
import { ID } from '../../subjects.ts';

/** Parts of the wake index. */
const WAKE_PARTS = 8;
/** Of a Redis Cluster. */
export const SLOTS = 16_384;

/** Whether a text may be in a key; there is nothing under any other one. */
export function isId(text: string): boolean {
  return ID.test(text);
}

export class Keys {
  readonly prefix: string;
  readonly owners: string;
  /** Followed by an owner. */
  readonly workOf: string;
  readonly #session: string;

  constructor(prefix: string) {
    this.prefix = prefix;
    this.owners = `${prefix}owners:{work}`;
    this.workOf = `${prefix}work:{work}:`;
    this.#session = `${prefix}session:{`;
  }

  session(session: string): string {
    return `${this.#session}${session}}`;
  }

  events(session: string): string {
    return `${this.#session}${session}}:events`;
  }

  tools(session: string): string {
    return `${this.#session}${session}}:tools`;
  }

  /** Begins the keys of a session's journals; the execution follows. */
  journals(session: string): string {
    return `${this.#session}${session}}:tools:`;
  }

  incarnation(incarnation: string): string {
    return `${this.prefix}incarnation:${incarnation}`;
  }

  role(role: string): string {
    return `${this.prefix}role:${role}`;
  }

  /** What each holder has of a shared number, and when that ends. */
  share(name: string): readonly [string, string] {
    return [`${this.prefix}share:{${name}}:has`, `${this.prefix}share:{${name}}:ends`];
  }

  /** Of nobody if undefined. */
  work(owner: string | undefined): string {
    return `${this.workOf}${owner ?? ''}`;
  }

  /** The two keys of the part of the wake index that a session is in. */
  wake(session: string): readonly [string, string] {
    return this.#wakePart(crc16(session) % WAKE_PARTS);
  }

  /** The two keys of each part of the wake index. */
  wakeParts(): readonly (readonly [string, string])[] {
    return Array.from({ length: WAKE_PARTS }, (_, part) => this.#wakePart(part));
  }

  #wakePart(part: number): readonly [string, string] {
    return [`${this.prefix}wakes:{wake${part}}`, `${this.prefix}covers:{wake${part}}`];
  }
}

/**
 * The slot of a key, as Redis Cluster reckons it: of what is between the first braces, if there is anything.
 */
export function slotOf(key: string): number {
  const open = key.indexOf('{');
  const close = open === -1 ? -1 : key.indexOf('}', open + 1);
  return crc16(close > open + 1 ? key.slice(open + 1, close) : key) % SLOTS;
}

const CRC16 = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000) === 0 ? crc << 1 : (crc << 1) ^ 0x1021;
  return crc & 0xffff;
});

/** CRC-16/XMODEM, of the text's bytes. */
function crc16(text: string): number {
  let crc = 0;
  for (const byte of Buffer.from(text)) crc = ((crc << 8) ^ (CRC16[(crc >> 8) ^ byte] ?? 0)) & 0xffff;
  return crc;
}
