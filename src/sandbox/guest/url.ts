/**
 * The guest's `URL`. Parsing is the host's: the parser is large, and differing from the platform's would be a
 * security bug of its own. All that crosses are strings.
 */
// biome-ignore-all lint/complexity/noArguments: Web IDL counts arguments, and a rest parameter would change a method's length.
import type { UrlAnswer, UrlKey, UrlParts, WebHost } from './host.ts';
import type { GuestIdl } from './idl.ts';
import type { GuestParams } from './params.ts';

export function installUrl(
  global: Record<string, unknown>,
  host: WebHost,
  idl: GuestIdl,
  params: GuestParams,
): void {
  const { expose, usv, need, slice } = idl;
  const { parse: parseJson, stringify } = JSON;
  const NativeTypeError = TypeError;
  const MAX_REQUEST = 65_536;

  /** Ask the host; `body` is JSON joined from primitive strings, so no `toJSON` of a script sees it. */
  const ask = (body: string): UrlParts | undefined => {
    if (body.length > MAX_REQUEST) throw new NativeTypeError('Invalid URL: too long');
    let answer: UrlAnswer;
    try {
      // No error of the library's is shown to the script, whatever it may hold.
      answer = parseJson((host.url as (request: string) => string)(body)) as UrlAnswer;
    } catch {
      throw new NativeTypeError('Invalid URL');
    }
    return answer.ok ? answer : undefined;
  };
  const locate = (href: unknown, base: unknown): UrlParts | undefined => {
    const text = stringify(usv(href));
    return ask(
      base === undefined
        ? `{"op":"parse","href":${text}}`
        : `{"op":"parse","href":${text},"base":${stringify(usv(base))}}`,
    );
  };
  const queryOf = (parts: UrlParts): string => slice(parts.search, 1, parts.search.length);

  /** In place of a URL: the second argument is parts that are parsed already. No script has this object. */
  const PARSED = {};

  class URL {
    #parts: UrlParts;
    #params: object | undefined = undefined;

    static canParse(url: unknown, base: unknown = undefined): boolean {
      need(arguments.length, 1);
      return locate(url, base) !== undefined;
    }

    static parse(url: unknown, base: unknown = undefined): URL | null {
      need(arguments.length, 1);
      const parts = locate(url, base);
      return parts === undefined ? null : new URL(PARSED, parts);
    }

    constructor(url: unknown, base: unknown = undefined) {
      need(arguments.length, 1);
      const parts = url === PARSED ? (base as UrlParts) : locate(url, base);
      if (parts === undefined) throw new NativeTypeError('Invalid URL');
      this.#parts = parts;
    }

    #set(key: UrlKey, value: unknown): boolean {
      const href = stringify(this.#parts.href);
      const parts = ask(`{"op":"set","href":${href},"key":"${key}","value":${stringify(usv(value))}}`);
      if (parts === undefined) return false;
      this.#parts = parts;
      return true;
    }

    #refill(): void {
      if (this.#params !== undefined) params.refill(this.#params, queryOf(this.#parts));
    }

    get href(): string {
      return this.#parts.href;
    }
    set href(value: unknown) {
      if (!this.#set('href', value)) throw new NativeTypeError('Invalid URL');
      this.#refill();
    }

    get origin(): string {
      return this.#parts.origin;
    }

    get protocol(): string {
      return this.#parts.protocol;
    }
    set protocol(value: unknown) {
      this.#set('protocol', value);
    }

    get username(): string {
      return this.#parts.username;
    }
    set username(value: unknown) {
      this.#set('username', value);
    }

    get password(): string {
      return this.#parts.password;
    }
    set password(value: unknown) {
      this.#set('password', value);
    }

    get host(): string {
      return this.#parts.host;
    }
    set host(value: unknown) {
      this.#set('host', value);
    }

    get hostname(): string {
      return this.#parts.hostname;
    }
    set hostname(value: unknown) {
      this.#set('hostname', value);
    }

    get port(): string {
      return this.#parts.port;
    }
    set port(value: unknown) {
      this.#set('port', value);
    }

    get pathname(): string {
      return this.#parts.pathname;
    }
    set pathname(value: unknown) {
      this.#set('pathname', value);
    }

    get search(): string {
      return this.#parts.search;
    }
    set search(value: unknown) {
      this.#set('search', value);
      this.#refill();
    }

    get searchParams(): object {
      this.#params ??= params.attach(queryOf(this.#parts), (query) => {
        try {
          this.#set('search', query);
        } catch (error) {
          // Too long: the list goes back to what the URL says.
          this.#refill();
          throw error;
        }
      });
      return this.#params;
    }

    get hash(): string {
      return this.#parts.hash;
    }
    set hash(value: unknown) {
      this.#set('hash', value);
    }

    toString(): string {
      return this.#parts.href;
    }

    toJSON(): string {
      return this.#parts.href;
    }
  }

  expose(global, 'URL', URL);
}
