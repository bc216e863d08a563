/** Every example is read and planned as `mesh submit` would. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseDescription } from '../../src/cli/graph-file/parse-description.ts'
import { planGraph, type Plan } from '../../src/cli/graph-file/plan.ts'
import { readGraphFile } from '../../src/cli/graph-file/read-graph-file.ts'

const EXAMPLES = join(import.meta.dirname, '../../examples')

async function planOf(file: string): Promise<Plan> {
  const { located } = await readGraphFile(EXAMPLES, file)
  return planGraph(located, parseDescription(located), { attributes: [], system: 'x86_64-linux' })
}

test('examples: hello.mesh.toml makes one file', async () => {
  const plan = await planOf('hello.mesh.toml')
  assert.deepEqual(
    plan.derivations.map(({ name }) => name),
    ['hello'],
  )
})

test('examples: text/graph.mesh.toml has twelve derivations that end in a report', async () => {
  const plan = await planOf('text/graph.mesh.toml')
  assert.equal(plan.derivations.length, 12)
  assert.deepEqual(plan.wanted, ['report'])
})

test('examples: leveldb/graph.ts has 41 units and ends in the output of a program', async () => {
  const plan = await planOf('leveldb/graph.ts')
  const units = plan.derivations.filter(({ name }) => /^(?:leveldb|snappy)\b/.test(name))
  assert.equal(units.length, 41)
  assert.equal(plan.derivations.length, 46)
  assert.deepEqual(plan.wanted, ['run'])
})
