/** A TOML configuration file that still knows where each of its values stands, so that an error can show the line. */
import { getStaticTOMLValue, ParseError, parseTOML, type AST } from 'toml-eslint-parser'
import { MeshError, type ErrorCode } from '../../base/errors.ts'

type Path = readonly PropertyKey[]

/** Both counted from 1. */
interface Position {
  readonly line: number
  readonly column: number
}

const EXCERPT_COLUMNS_MAX = 160

export class ConfigFile {
  readonly path: string
  readonly value: unknown
  readonly #lines: readonly string[]
  readonly #keys = new Map<string, Position>()
  readonly #values = new Map<string, Position>()

  /** Throws MESH0201. */
  constructor(path: string, text: string) {
    this.path = path
    this.#lines = text.split(/\r?\n/)
    let program: AST.TOMLProgram
    try {
      program = parseTOML(text)
    } catch (error) {
      if (!(error instanceof ParseError)) throw error
      const position = { line: error.lineNumber, column: error.column + 1 }
      throw this.#error('MESH0201', position, error.message, [])
    }
    this.value = getStaticTOMLValue(program)
    for (const node of program.body[0].body) {
      if (node.type === 'TOMLKeyValue') this.#addKeyValue([], node)
      else this.#addTable(node)
    }
  }

  /** `FILE:LINE:COLUMN` of a value that the file has. */
  whereOf(path: Path): string | undefined {
    const position = this.#values.get(idOf(path))
    return position === undefined ? undefined : this.#where(position)
  }

  /** An error at the key or value of `path`, else at what encloses it. */
  errorAt(
    side: 'key' | 'value',
    path: Path,
    message: string,
    hints: readonly string[] = [],
  ): MeshError {
    const [first, second] = side === 'key' ? [this.#keys, this.#values] : [this.#values, this.#keys]
    for (let end = path.length; end > 0; end--) {
      const id = idOf(path.slice(0, end))
      const position = first.get(id) ?? second.get(id)
      if (position !== undefined) return this.#error('MESH0104', position, message, hints)
    }
    return new MeshError('MESH0104', message, { where: this.path, hints })
  }

  #error(
    code: ErrorCode,
    position: Position,
    message: string,
    hints: readonly string[],
  ): MeshError {
    return new MeshError(code, message + this.#excerpt(position), {
      where: this.#where(position),
      hints,
    })
  }

  #where({ line, column }: Position): string {
    return `${this.path}:${line}:${column}`
  }

  /** The line with a caret below. Tabs stay tabs, so that the caret stands below its character. */
  #excerpt({ line, column }: Position): string {
    const text = this.#lines[line - 1]
    if (text === undefined || column > EXCERPT_COLUMNS_MAX) return ''
    const indent = text.slice(0, column - 1).replaceAll(/[^\t]/g, ' ')
    const margin = ' '.repeat(String(line).length)
    return `\n${line} | ${text.slice(0, EXCERPT_COLUMNS_MAX)}\n${margin} | ${indent}^`
  }

  #addTable({ key, resolvedKey, body }: AST.TOMLTable): void {
    // Indices of arrays of tables are in the resolved key, but are no keys of their own.
    const names = resolvedKey.filter((part) => typeof part === 'string')
    for (const [at, name] of key.keys.entries()) setFirst(this.#keys, names.slice(0, at + 1), name)
    for (const entry of body) this.#addKeyValue(resolvedKey, entry)
  }

  #addKeyValue(parent: Path, { key, value }: AST.TOMLKeyValue): void {
    let path = parent
    for (const part of key.keys) {
      path = [...path, part.type === 'TOMLBare' ? part.name : part.value]
      setFirst(this.#keys, path, part)
    }
    this.#addValue(path, value)
  }

  #addValue(path: Path, value: AST.TOMLContentNode): void {
    setFirst(this.#values, path, value)
    if (value.type === 'TOMLArray')
      for (const [at, element] of value.elements.entries()) this.#addValue([...path, at], element)
    if (value.type === 'TOMLInlineTable')
      for (const entry of value.body) this.#addKeyValue(path, entry)
  }
}

const idOf = (path: Path): string => path.map(String).join('\0')

function setFirst(positions: Map<string, Position>, path: Path, { loc }: AST.TOMLNode): void {
  const id = idOf(path)
  if (!positions.has(id)) positions.set(id, { line: loc.start.line, column: loc.start.column + 1 })
}
