/** TypeScript in scripts, and the positions that errors name, which are those of the text that was sent. */
import { afterAll, describe, expect, it } from 'vitest';
import { createWorkerPoolAdapter, Enclave } from '../../src/index.ts';
import { errorIn, valueIn } from './ends.ts';

const enclave = new Enclave({ adapter: createWorkerPoolAdapter({ poolSize: 1 }) });
afterAll(() => enclave.dispose());

describe('TypeScript', () => {
  it.each<[string, string, unknown]>([
    [
      'annotations',
      'const a: number = 1; const f = (b?: string): string => a + (b ?? ""); return f("x")',
      '1x',
    ],
    [
      'interfaces and type aliases',
      'interface A { n: number } type B = A & { m?: string }; const b: B = { n: 2 }; return b.n',
      2,
    ],
    ['enums', 'enum A { X, Y = 5, Z } return [A.X, A.Z, A[5]]', [0, 6, 'Y']],
    ['string enums', 'enum A { X = "x" } return A.X', 'x'],
    ['const enums', 'const enum A { X = 3 } return A.X', 3],
    ['generic functions', 'function id<T>(x: T): T { return x } return id<number>(4)', 4],
    ['calls with type arguments', 'return new Map<string, number>([["a", 1]]).get("a")', 1],
    ['method calls with type arguments', 'return [1, 2].map<string>((n) => String(n)).join()', '1,2'],
    ['generic arrow functions', 'const f = <T,>(x: T): T => x; return f<string>("g")', 'g'],
    ['assertions', 'const x = { a: 1 } as unknown as { a: number }; return x!.a', 1],
    ['satisfies', 'return ({ a: 1 } satisfies Record<string, number>).a', 1],
    [
      'classes with members',
      'class A<T> { private readonly x: T; constructor(x: T) { this.x = x } get(): T { return this.x } } return new A<number>(7).get()',
      7,
    ],
    ['parameter properties', 'class A { constructor(public readonly x: number) {} } return new A(3).x', 3],
    [
      'abstract classes',
      'abstract class A { abstract n(): number } class B extends A { n() { return 8 } } return new B().n()',
      8,
    ],
    ['namespaces', 'namespace N { export const a = 4 } return N.a', 4],
    [
      'overloads',
      'function f(a: string): string; function f(a: number): number; function f(a: any) { return a } return f(9)',
      9,
    ],
    ['declare', 'declare const nothing: string; return typeof nothing', 'undefined'],
    ['await and return at the top', 'const x: number = await Promise.resolve(5); return x', 5],
  ])('may use %s', async (_what, code, value) => {
    expect(valueIn(await enclave.run(code))).toEqual(value);
  });

  it.each<[string, string, unknown]>([
    ['comparisons in a list', 'const a = 1, b = 2, c = 3; return [a < b, c > b]', [true, true]],
    [
      'a comparison chain with calls',
      'const a = 1; const f = (n) => n; return f(a) < f(2) && f(3) > f(1)',
      true,
    ],
    ['strings with angle brackets', 'return "f<T>(x)"', 'f<T>(x)'],
    ['regular expressions', 'return /a<b>(c)/.test("a<b>c")', true],
    ['sloppy mode', 'undeclared = 1; return undeclared', 1],
    ['a line comment at the end', 'return 1 // the end', 1],
    // biome-ignore lint/suspicious/noTemplateCurlyInString: it is the script's own.
    ['a template literal', 'return `a<${2}>(3)`', 'a<2>(3)'],
  ])('does not change what JavaScript means: %s', async (_what, code, value) => {
    expect(valueIn(await enclave.run(code))).toEqual(value);
  });
});

describe('an error names the line and column that were sent', () => {
  it.each([
    ['JavaScript', 'const f = (n) => {\n  throw new RangeError("bad " + n);\n};\n\n    f(1);', '2:9', '5:5'],
    [
      'types that are blanked out',
      'const f = (n: number): never => {\n  throw new RangeError("bad " + n);\n};\n\n    f(1 as number);',
      '2:9',
      '5:5',
    ],
    [
      'an enum that is rewritten',
      'enum A { X = 1 }\nconst f = (n: number): never => {\n  throw new RangeError("bad " + n);\n};\n  f(A.X);',
      '3:9',
      '5:3',
    ],
    [
      'an enum of many lines',
      'enum A {\n  W,\n  X,\n}\nconst f = (n: number): never => {\n  throw new RangeError("bad " + n);\n};\nf(A.X);',
      '6:9',
      '8:1',
    ],
  ])('in %s', async (_what, code, thrown, called) => {
    expect(errorIn(await enclave.run(code)).stack).toBe(
      `RangeError: bad 1\n    at f (script.js:${thrown})\n    at script.js:${called}`,
    );
  });

  it('after an await too', async () => {
    const code = 'const work = async () => {\n  await sleep(1);\n  null.x;\n};\nawait work();';
    const { stack } = errorIn(await enclave.run(code));
    expect(stack).toContain('script.js:3:8');
    expect(stack).toContain('script.js:5:1');
  });

  it('of a failed tool call: where it was called', async () => {
    const { stack } = errorIn(await enclave.run('const x = 1;\n\n  await callTool("nothing:there");'));
    expect(stack).toContain('script.js:3:');
  });

  it('and shows neither a file of ours nor a frame of ours', async () => {
    const code = 'try { null.x } catch (error) { return [error.stack, new Error("mine").stack] }';
    for (const stack of valueIn(await enclave.run<string[]>(code))) {
      expect(stack).toMatch(/^\w*Error: .*(\n {4}at (async )?script\.js:1:\d+)+$/);
    }
  });
});

describe('a script that does not parse', () => {
  it.each([
    ['const a = 1;\nconst b = ;', 2, 11],
    ['let x: number = 1;\nlet y: string = );', 2, 17],
    ['import fs from "fs"', 1, 1],
    ['export const a = 1', 1, 1],
    ['const a = 1;\nconst a = 2;', 2, 7],
  ])('is a SYNTAX_ERROR that names its place: %j', async (code, line, column) => {
    const result = await enclave.run(code);
    const error = errorIn(result);
    expect(error).toMatchObject({
      name: 'SyntaxError',
      code: 'SYNTAX_ERROR',
      retryable: false,
      outcome: 'not_started',
    });
    const found = /\(script\.js:(\d+):(\d+)\)$/.exec(error.message);
    expect(Number(found?.[1])).toBe(line);
    // Two parsers may complain of either end of the same place.
    expect(Math.abs(Number(found?.[2]) - column)).toBeLessThanOrEqual(2);
    expect(error.stack).toBe(
      `SyntaxError: ${error.message.replace(/ \(script.*$/, '')}\n    at script.js:${line}:${found?.[2]}`,
    );
    expect(result.toolCalls).toEqual([]);
  });

  it.each([
    '} ); (function () { return 1',
    '}\nasync function x() {',
    '}, callTool("x"), function () {',
    '*/ } /*',
  ])('cannot close the function around it: %j', async (code) => {
    const result = await enclave.run(code);
    expect(errorIn(result)).toMatchObject({ code: 'SYNTAX_ERROR', outcome: 'not_started' });
    expect(result.toolCalls).toEqual([]);
  });

  it.each(['return (', 'if (true) {', 'const a = [1,\n2', '`open'])(
    'names a place in the text even at its end: %j',
    async (code) => {
      const { message } = errorIn(await enclave.run(code));
      const line = Number(/\(script\.js:(\d+):\d+\)$/.exec(message)?.[1]);
      expect(line).toBeGreaterThanOrEqual(1);
      expect(line).toBeLessThanOrEqual(code.split('\n').length);
      expect(message).not.toContain("'}'");
    },
  );
});
