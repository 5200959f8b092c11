/**
 * Subjects: which are valid, and who subscribed to what. A subject is tokens joined by dots; in a pattern, `*`
 * stands for one token and a last `>` for one or more.
 *
 * A pattern without wildcards is found through a Map, which costs the same however many there are. The others
 * are in a tree with one level per token, so that thousands of sessions with a pattern each cost no more than
 * one. Leaves and nodes go with their last subscriber.
 */

const DOT = 46;
const STAR = 42;
const REST = 62;
const SPACE = 32;
const DELETE = 127;
const NO_BREAK_SPACE = 160;

/** Whether one may publish to it: tokens are not empty, and hold no white space, control character, `*` or `>`. */
export function isSubject(text: string): boolean {
  return isValid(text, false);
}

/** Whether one may subscribe to it: a subject in which whole tokens may be `*`, and the last one `>`. */
export function isPattern(text: string): boolean {
  return isValid(text, true);
}

function isValid(text: string, wildcards: boolean): boolean {
  const { length } = text;
  /** Where the token began. */
  let start = 0;
  for (let at = 0; at < length; at++) {
    const code = text.charCodeAt(at);
    if (code === DOT) {
      if (at === start) return false;
      start = at + 1;
    } else if (code === STAR || code === REST) {
      const alone = at === start && (at + 1 === length || text.charCodeAt(at + 1) === DOT);
      if (!wildcards || !alone || (code === REST && at + 1 !== length)) return false;
    } else if (code <= SPACE) return false;
    else if (code >= DELETE && (code <= NO_BREAK_SPACE || /\s/.test(text.charAt(at)))) return false;
  }
  return start < length;
}

interface Group<T> {
  readonly name: string;
  readonly members: T[];
  /** Of the member that had the last message. */
  turn: number;
}

/** The subscribers of one pattern. */
interface Leaf<T> {
  /** Replaced, never changed: {@link Interest.match} hands it out. */
  plain: readonly T[];
  readonly groups: Group<T>[];
}

interface Node<T> {
  readonly tokens: Map<string, Node<T>>;
  /** `*` */
  any: Node<T> | undefined;
  /** Patterns that end here. */
  leaf: Leaf<T> | undefined;
  /** Patterns that end here with `>`. */
  rest: Leaf<T> | undefined;
}

const NOBODY: readonly never[] = [];

/** Who subscribed to what. */
export class Interest<T> {
  readonly #exact = new Map<string, Leaf<T>>();
  readonly #root: Node<T> = nodeOf();
  #wildcards = 0;

  /** Patterns without wildcards, and nodes of the tree, that are kept. For tests: both end at 0. */
  get size(): number {
    return this.#exact.size + countNodes(this.#root);
  }

  /** Add a subscriber; the pattern is valid. Returns what takes it away again, to be called once. */
  add(pattern: string, queue: string | undefined, value: T): () => void {
    const wild = hasWildcard(pattern);
    const leaf = wild ? this.#grow(pattern) : this.#leafOf(pattern);
    join(leaf, queue, value);
    if (wild) this.#wildcards++;
    return () => {
      part(leaf, queue, value);
      if (wild) this.#wildcards--;
      if (!isEmpty(leaf)) return;
      if (wild) prune(this.#root, pattern.split('.'), 0);
      else this.#exact.delete(pattern);
    };
  }

  /** Whether the subject is known to be valid because somebody subscribed to it. */
  knows(subject: string): boolean {
    return this.#exact.has(subject);
  }

  /** Who gets a message on this valid subject: every plain subscriber, and of each queue group the one whose turn it is. */
  match(subject: string): readonly T[] {
    const leaf = this.#exact.get(subject);
    if (this.#wildcards === 0) {
      if (leaf === undefined) return NOBODY;
      return leaf.groups.length === 0 ? leaf.plain : chosen([leaf]);
    }
    const found: Leaf<T>[] = leaf === undefined ? [] : [leaf];
    collect(this.#root, subject, 0, found);
    return found.length === 0 ? NOBODY : chosen(found);
  }

  #leafOf(subject: string): Leaf<T> {
    let leaf = this.#exact.get(subject);
    if (leaf === undefined) this.#exact.set(subject, (leaf = leafOf()));
    return leaf;
  }

  #grow(pattern: string): Leaf<T> {
    let node = this.#root;
    for (const token of pattern.split('.')) {
      if (token === '>') return (node.rest ??= leafOf());
      let next = token === '*' ? node.any : node.tokens.get(token);
      if (next === undefined) {
        next = nodeOf();
        if (token === '*') node.any = next;
        else node.tokens.set(token, next);
      }
      node = next;
    }
    return (node.leaf ??= leafOf());
  }
}

function hasWildcard(pattern: string): boolean {
  return pattern.includes('*') || pattern.includes('>');
}

function leafOf<T>(): Leaf<T> {
  return { plain: [], groups: [] };
}

function nodeOf<T>(): Node<T> {
  return { tokens: new Map(), any: undefined, leaf: undefined, rest: undefined };
}

function isEmpty(leaf: Leaf<unknown>): boolean {
  return leaf.plain.length === 0 && leaf.groups.length === 0;
}

function join<T>(leaf: Leaf<T>, queue: string | undefined, value: T): void {
  if (queue === undefined) {
    leaf.plain = [...leaf.plain, value];
    return;
  }
  const group = leaf.groups.find(({ name }) => name === queue);
  if (group === undefined) leaf.groups.push({ name: queue, members: [value], turn: 0 });
  else group.members.push(value);
}

function part<T>(leaf: Leaf<T>, queue: string | undefined, value: T): void {
  if (queue === undefined) {
    leaf.plain = leaf.plain.filter((each) => each !== value);
    return;
  }
  const at = leaf.groups.findIndex(({ name }) => name === queue);
  const members = leaf.groups[at]?.members;
  if (members === undefined) return;
  members.splice(members.indexOf(value), 1);
  if (members.length === 0) leaf.groups.splice(at, 1);
}

/** The leaves of all patterns in the tree that match what of the subject begins at `from`. */
function collect<T>(node: Node<T>, subject: string, from: number, found: Leaf<T>[]): void {
  if (node.rest !== undefined) found.push(node.rest);
  const dot = subject.indexOf('.', from);
  const token = subject.slice(from, dot === -1 ? subject.length : dot);
  for (const next of [node.tokens.get(token), node.any]) {
    if (next === undefined) continue;
    if (dot !== -1) collect(next, subject, dot + 1, found);
    else if (next.leaf !== undefined) found.push(next.leaf);
  }
}

function chosen<T>(leaves: readonly Leaf<T>[]): readonly T[] {
  const receivers: T[] = [];
  for (const [at, { plain, groups }] of leaves.entries()) {
    for (const value of plain) receivers.push(value);
    for (const group of groups) {
      if (leaves.length === 1) serve(group, group.members, receivers);
      // One name is one group, by whatever patterns its members came to it; the first leaf with it serves it.
      else if (!leaves.slice(0, at).some((leaf) => membersOf(leaf, group.name).length > 0))
        serve(
          group,
          leaves.slice(at).flatMap((leaf) => membersOf(leaf, group.name)),
          receivers,
        );
    }
  }
  return receivers;
}

function membersOf<T>(leaf: Leaf<T>, queue: string): readonly T[] {
  return leaf.groups.find(({ name }) => name === queue)?.members ?? [];
}

/** Add the member whose turn it is. */
function serve<T>(group: Group<T>, members: readonly T[], receivers: T[]): void {
  group.turn = (group.turn + 1) % members.length;
  const member = members[group.turn];
  if (member !== undefined) receivers.push(member);
}

/** Cut off what has become empty along a pattern. Returns whether the node has. */
function prune<T>(node: Node<T>, tokens: readonly string[], at: number): boolean {
  const token = tokens[at];
  if (token === '>') node.rest = undefined;
  else if (token === undefined) node.leaf = undefined;
  else if (token === '*') {
    if (node.any !== undefined && prune(node.any, tokens, at + 1)) node.any = undefined;
  } else {
    const next = node.tokens.get(token);
    if (next !== undefined && prune(next, tokens, at + 1)) node.tokens.delete(token);
  }
  return (
    node.tokens.size === 0 && node.any === undefined && node.leaf === undefined && node.rest === undefined
  );
}

function countNodes(node: Node<unknown>): number {
  const below = [...node.tokens.values(), ...(node.any === undefined ? [] : [node.any])];
  return below.reduce((sum, each) => sum + 1 + countNodes(each), node.rest === undefined ? 0 : 1);
}
