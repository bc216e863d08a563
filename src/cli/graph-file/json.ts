/** JSON (RFC 8259) with positions; a key that comes twice is refused. */
import { errorAt, Positions, type Located, type Path, type Position } from './located.ts'

const DEPTH_MAX = 200
const TOKEN =
  // oxlint-disable-next-line no-control-regex
  /[ \t\r\n]*(?:([{}[\]:,])|("(?:[^"\\\u0000-\u001f]|\\.)*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null)(?![\w.]))/y
const BLANK = /[ \t\r\n]*/y

/** Throws MESH0201. */
export function parseJsonText(name: string, text: string): Located {
  const parser = new Parser(name, text)
  const value = parser.document()
  return { name, value, positions: parser.positions, lines: parser.lines }
}

class Parser {
  readonly positions = new Positions()
  readonly lines: readonly string[]
  readonly #name: string
  readonly #text: string
  /** Offset at which each line begins. */
  readonly #starts: readonly number[]
  #line = 0
  #at = 0

  constructor(name: string, text: string) {
    this.#name = name
    this.#text = text
    this.lines = text.split(/\r?\n/)
    const starts = [0]
    for (let at = text.indexOf('\n'); at !== -1; at = text.indexOf('\n', at + 1))
      starts.push(at + 1)
    this.#starts = starts
  }

  document(): unknown {
    const value = this.#value([], 0)
    this.#skipBlank()
    if (this.#at < this.#text.length) throw this.#unexpected('the end of the file')
    return value
  }

  #value(path: Path, depth: number): unknown {
    if (depth > DEPTH_MAX) throw this.#problem(`nested deeper than ${DEPTH_MAX}`)
    const start = this.#start()
    this.positions.set('value', path, start)
    const token = this.#token('a value')
    if (token === '{') return this.#object(path, depth)
    if (token === '[') return this.#array(path, depth)
    if (/^[}\]:,]/.test(token)) throw this.#unexpected('a value', start)
    return this.#scalar(token, start)
  }

  #object(path: Path, depth: number): unknown {
    const entries = new Map<string, unknown>()
    while (!this.#peek('}')) {
      if (entries.size > 0) this.#expect(',')
      const start = this.#start()
      const token = this.#token('a key in quotes')
      if (!token.startsWith('"')) throw this.#unexpected('a key in quotes', start)
      const key = String(this.#scalar(token, start))
      if (entries.has(key)) throw this.#problem(`the key ${token} comes twice`, start)
      this.positions.set('key', [...path, key], start)
      this.#expect(':')
      entries.set(key, this.#value([...path, key], depth + 1))
    }
    this.#expect('}')
    return Object.fromEntries(entries)
  }

  #array(path: Path, depth: number): unknown {
    const items: unknown[] = []
    while (!this.#peek(']')) {
      if (items.length > 0) this.#expect(',')
      items.push(this.#value([...path, items.length], depth + 1))
    }
    this.#expect(']')
    return items
  }

  /** A token that is a whole JSON text itself. */
  #scalar(token: string, start: Position): unknown {
    try {
      return JSON.parse(token)
    } catch {
      throw this.#problem(`${token} has an escape that JSON does not know`, start)
    }
  }

  #token(expected: string): string {
    TOKEN.lastIndex = this.#at
    const match = TOKEN.exec(this.#text)
    if (match === null) throw this.#unexpected(expected)
    this.#at = TOKEN.lastIndex
    return match[1] ?? match[2] ?? match[3] ?? ''
  }

  #peek(token: string): boolean {
    this.#skipBlank()
    return this.#text.startsWith(token, this.#at)
  }

  #expect(token: string): void {
    if (!this.#peek(token)) throw this.#unexpected(JSON.stringify(token))
    this.#at += token.length
  }

  #skipBlank(): void {
    BLANK.lastIndex = this.#at
    BLANK.exec(this.#text)
    this.#at = BLANK.lastIndex
  }

  /** Where the next token begins. */
  #start(): Position {
    this.#skipBlank()
    while ((this.#starts[this.#line + 1] ?? Infinity) <= this.#at) this.#line++
    return { line: this.#line + 1, column: this.#at - (this.#starts[this.#line] ?? 0) + 1 }
  }

  #unexpected(expected: string, position = this.#start()): Error {
    const start = (this.#starts[position.line - 1] ?? 0) + position.column - 1
    const found =
      start >= this.#text.length ? 'the end of the file' : JSON.stringify(this.#text[start])
    return this.#problem(`expected ${expected}, found ${found}`, position)
  }

  #problem(message: string, position = this.#start()): Error {
    return errorAt({ name: this.#name, lines: this.lines }, position, 'MESH0201', message)
  }
}
