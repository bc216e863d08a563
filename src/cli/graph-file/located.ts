/** A parsed file that still knows where each of its values stands, so that every error can show the line. */
import { MeshError, type ErrorCode } from '../../base/errors.ts'

/** Both counted from 1. */
export interface Position {
  readonly line: number
  readonly column: number
}

export type Path = readonly (string | number)[]

/** Positions by path, filled by the parsers. */
export class Positions {
  readonly #keys = new Map<string, Position>()
  readonly #values = new Map<string, Position>()

  /** The first position of a path stays. */
  set(side: 'key' | 'value', path: Path, position: Position): void {
    const positions = side === 'key' ? this.#keys : this.#values
    const id = idOf(path)
    if (!positions.has(id)) positions.set(id, position)
  }

  /** Of the path itself, else of its other side, else of what encloses it. */
  find(side: 'key' | 'value', path: Path): Position | undefined {
    const [first, second] = side === 'key' ? [this.#keys, this.#values] : [this.#values, this.#keys]
    for (let end = path.length; end > 0; end--) {
      const id = idOf(path.slice(0, end))
      const position = first.get(id) ?? second.get(id)
      if (position !== undefined) return position
    }
    return undefined
  }
}

const idOf = (path: Path): string => path.join('\0')

export interface Located {
  /** The file's name as the user gave it. */
  readonly name: string
  readonly value: unknown
  readonly positions: Positions
  /** Empty for what was not read from text. */
  readonly lines: readonly string[]
}

/** `file:line:column`, or the file alone. */
export function whereOf({ name }: Pick<Located, 'name'>, position: Position | undefined): string {
  return position === undefined ? name : `${name}:${position.line}:${position.column}`
}

const EXCERPT_COLUMNS_MAX = 160

/** The source line with a caret below; empty where there is none. */
function excerpt(lines: readonly string[], position: Position | undefined): string {
  const line = position === undefined ? undefined : lines[position.line - 1]
  if (position === undefined || line === undefined || position.column > EXCERPT_COLUMNS_MAX)
    return ''
  const number = String(position.line)
  // Tabs stay tabs, so that the caret stands below its character.
  const indent = line.slice(0, position.column - 1).replaceAll(/[^\t]/g, ' ')
  return `\n${number} | ${line.slice(0, EXCERPT_COLUMNS_MAX)}\n${' '.repeat(number.length)} | ${indent}^`
}

/** An error at a place of the file, with its line. */
export function errorAt(
  located: Pick<Located, 'name' | 'lines'>,
  position: Position | undefined,
  code: ErrorCode,
  message: string,
  hints: readonly string[] = [],
): MeshError {
  return new MeshError(code, message + excerpt(located.lines, position), {
    where: whereOf(located, position),
    hints,
  })
}
