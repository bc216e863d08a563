/** Pages that are made from tables of the code, and examples in pages that are read by it. */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { COMMANDS } from '../../src/cli/command-table.ts'
import { helpOf } from '../../src/cli/command.ts'
import { errorsMarkdown } from '../../src/cli/explain.ts'
import { parseJsonText } from '../../src/cli/graph-file/json.ts'
import { parseDescription } from '../../src/cli/graph-file/parse-description.ts'
import { planGraph } from '../../src/cli/graph-file/plan.ts'
import { parseToml } from '../../src/cli/graph-file/toml.ts'
import { cliMarkdown } from '../../src/cli/reference.ts'

const DOCS = join(import.meta.dirname, '../../docs')

for (const [name, make] of [
  ['cli.md', cliMarkdown],
  ['errors.md', errorsMarkdown],
] as const)
  test(`docs: ${name} is what the code says (UPDATE_DOCS=1 writes it)`, () => {
    const path = join(DOCS, name)
    if (process.env['UPDATE_DOCS'] === '1') writeFileSync(path, make())
    assert.equal(readFileSync(path, 'utf8'), make())
  })

test('docs: every help has at most 24 lines of at most 110 columns', () => {
  for (const command of COMMANDS) {
    const help = helpOf(command)
    assert.ok(help.length <= 24, `${command.name}: ${help.length} lines`)
    for (const line of help) assert.ok(line.length <= 110, line)
  }
})

test('docs: each example of derivations.md is a file that can be submitted', () => {
  const page = readFileSync(join(DOCS, 'derivations.md'), 'utf8')
  const blocks = [...page.matchAll(/^```(toml|json)\n([\s\S]*?)^```$/gm)]
  assert.ok(blocks.length >= 3)
  for (const [, language, text = ''] of blocks) {
    const located =
      language === 'json' ? parseJsonText('example.json', text) : parseToml('example.toml', text)
    const plan = planGraph(located, parseDescription(located), {
      attributes: [],
      system: 'x86_64-linux',
    })
    assert.ok(plan.derivations.length > 0)
  }
})
