/** From a located value to a description; each complaint of the schema becomes an error with file, line and column. */
import type { z } from 'zod'
import type { MeshError } from '../../base/errors.ts'
import { GraphDescription } from './description.ts'
import { errorAt, type Located, type Path } from './located.ts'

/** Values are shown up to this length. */
const VALUE_LENGTH_MAX = 60

/** Throws MESH0202 and MESH0203. */
export function parseDescription(located: Located): GraphDescription {
  refusePrototypeKeys(located)
  const parsed = GraphDescription.safeParse(located.value)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => problemOf(located, issue))
  // A mistyped key first, for it is missing elsewhere; then the order of the file.
  const [first] = problems.toSorted(
    (a, b) => Number(isOther(a)) - Number(isOther(b)) || a.line - b.line,
  )
  throw first?.error ?? parsed.error
}

const isOther = ({ error }: { readonly error: MeshError }): boolean => error.code !== 'MESH0202'

function problemOf(located: Located, issue: z.core.$ZodIssue): { error: MeshError; line: number } {
  const path = issue.path.filter((part) => typeof part !== 'symbol')
  if (issue.code === 'unrecognized_keys') {
    const key = issue.keys[0] ?? ''
    const position = located.positions.find('key', [...path, key])
    const table = path.length === 0 ? 'at the top' : `in [${dotted(path)}]`
    const error = errorAt(
      located,
      position,
      'MESH0202',
      `unknown key ${JSON.stringify(key)} ${table}`,
      [issue.message],
    )
    return { error, line: position?.line ?? 0 }
  }
  if (issue.code === 'invalid_key') {
    const position = located.positions.find('key', path)
    const message = `bad name ${JSON.stringify(path.at(-1))} in [${dotted(path.slice(0, -1))}]: ${issue.issues[0]?.message ?? ''}`
    return { error: errorAt(located, position, 'MESH0203', message), line: position?.line ?? 0 }
  }
  const value = valueAt(located.value, path)
  const isMissing = value === undefined && path.length > 0
  const position = isMissing
    ? located.positions.find('key', path.slice(0, -1))
    : located.positions.find('value', path)
  const message = isMissing
    ? `${path.length === 1 ? 'the file' : `[${dotted(path.slice(0, -1))}]`} has no ${JSON.stringify(path.at(-1))}${issue.code === 'invalid_value' ? `: ${expectation(issue)}` : ''}`
    : `${dotted(path)}${shown(value)}: ${expectation(issue)}`
  return { error: errorAt(located, position, 'MESH0203', message), line: position?.line ?? 0 }
}

function expectation(issue: z.core.$ZodIssue): string {
  switch (issue.code) {
    case 'invalid_type':
      return `expected ${TYPE_NAMES[issue.expected] ?? issue.expected}`
    case 'invalid_value':
      return `expected ${issue.values.map((value) => JSON.stringify(value)).join(' or ')}`
    case 'too_small':
      return issue.origin === 'string' ? 'is empty' : `expected at least ${issue.minimum}`
    case 'too_big':
      return `expected at most ${issue.maximum}`
    case 'invalid_format':
    case 'not_multiple_of':
    case 'unrecognized_keys':
    case 'invalid_union':
    case 'invalid_key':
    case 'invalid_element':
    case 'custom':
      return issue.message
  }
}

const TYPE_NAMES: Readonly<Record<string, string>> = {
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a table',
  record: 'a table',
}

function shown(value: unknown): string {
  const json = typeof value === 'object' ? undefined : JSON.stringify(value)
  if (json === undefined) return ''
  return ` = ${json.length > VALUE_LENGTH_MAX ? `${json.slice(0, VALUE_LENGTH_MAX)}…` : json}`
}

const dotted = (path: Path): string =>
  path.map((part) => (/^[\w-]+$/.test(String(part)) ? part : JSON.stringify(part))).join('.')

function valueAt(value: unknown, path: Path): unknown {
  let at = value
  for (const part of path) {
    if (typeof at !== 'object' || at === null || !Object.hasOwn(at, part)) return undefined
    at = Reflect.get(at, part)
  }
  return at
}

/** Schemas skip `__proto__` without a word; nothing of a file may vanish so. */
function refusePrototypeKeys(located: Located): void {
  const visit = (value: unknown, path: Path): void => {
    if (typeof value !== 'object' || value === null) return
    for (const [key, below] of Object.entries(value)) {
      if (key === '__proto__')
        throw errorAt(
          located,
          located.positions.find('key', [...path, key]),
          'MESH0203',
          'the name "__proto__" is reserved',
        )
      visit(below, [...path, Array.isArray(value) ? Number(key) : key])
    }
  }
  visit(located.value, [])
}
