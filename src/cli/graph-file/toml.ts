/** TOML with positions: the values come from one parser, the places of keys and values from the tree of another. */
import { parse, TomlError } from 'smol-toml'
import { parseTOML, type AST } from 'toml-eslint-parser'
import { messageOf } from '../../base/errors.ts'
import { errorAt, Positions, type Located, type Path } from './located.ts'

/** Throws MESH0201. */
export function parseToml(name: string, text: string): Located {
  const lines = text.split(/\r?\n/)
  let value: unknown
  try {
    value = parse(text)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const [first = ''] = messageOf(error).split('\n')
    throw errorAt(
      { name, lines },
      { line: error.line, column: error.column },
      'MESH0201',
      first.replace('Invalid TOML document: ', ''),
    )
  }
  return { name, value, positions: positionsOf(text), lines }
}

function positionsOf(text: string): Positions {
  const positions = new Positions()
  for (const node of parseTOML(text).body[0].body) {
    if (node.type === 'TOMLKeyValue') addKeyValue(positions, [], node)
    else addTable(positions, node)
  }
  return positions
}

function addTable(positions: Positions, table: AST.TOMLTable): void {
  // Indices of arrays of tables are in the resolved key, but have no key of their own.
  let at = 0
  for (const [depth, part] of table.resolvedKey.entries()) {
    const path = table.resolvedKey.slice(0, depth + 1)
    const key = typeof part === 'number' ? table.key.keys[at - 1] : table.key.keys[at++]
    if (key !== undefined) positions.set('key', path, startOf(key))
  }
  for (const entry of table.body) addKeyValue(positions, table.resolvedKey, entry)
}

function addKeyValue(positions: Positions, parent: Path, { key, value }: AST.TOMLKeyValue): void {
  let path = parent
  for (const part of key.keys) {
    path = [...path, part.type === 'TOMLBare' ? part.name : part.value]
    positions.set('key', path, startOf(part))
  }
  addValue(positions, path, value)
}

function addValue(positions: Positions, path: Path, value: AST.TOMLContentNode): void {
  positions.set('value', path, startOf(value))
  if (value.type === 'TOMLArray')
    for (const [index, element] of value.elements.entries())
      addValue(positions, [...path, index], element)
  if (value.type === 'TOMLInlineTable')
    for (const entry of value.body) addKeyValue(positions, path, entry)
}

const startOf = ({ loc }: AST.TOMLNode): { line: number; column: number } => ({
  line: loc.start.line,
  column: loc.start.column + 1,
})
