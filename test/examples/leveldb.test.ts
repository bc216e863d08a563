/** The committed list of steps against the build files of the package whose sources it compiles. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'
import { test } from 'node:test'
import { leveldbSteps, sourcesDirectory } from '../../examples/leveldb/steps.ts'
import { DerivationName, InputName } from '../../src/wire/names.ts'

const steps = leveldbSteps()
const sources = sourcesDirectory()

/** The `.cc` files that a gyp file names for Linux: the Windows ports are those of libuv. */
function unitsOf(gyp: string): string[] {
  const text = readFileSync(join(sources, gyp), 'utf8').replaceAll('<(ldbversion)', '1.20')
  return [...text.matchAll(/"([^"]+\.cc)"/g)]
    .map(([, path = '']) => path)
    .filter((path) => !path.startsWith('port-libuv/'))
    .toSorted()
}

test('leveldb example: the units are those of leveldb.gyp and snappy.gyp', () => {
  const compiled = steps
    .flatMap((step) => Object.values(step.inputs))
    .flatMap((input) => ('file' in input ? [input.file] : []))
  const of = (folder: string): string[] =>
    compiled
      .filter((file) => file.startsWith(`${folder}/`))
      .map((file) => file.slice(folder.length + 1))
      .toSorted()
  assert.deepEqual(of('leveldb'), unitsOf('leveldb/leveldb.gyp'))
  assert.deepEqual(of('snappy'), unitsOf('snappy/snappy.gyp'))
  assert.equal(of('leveldb').length + of('snappy').length, 41)
})

test('leveldb example: each step has a valid name, its files exist, and it comes after what it uses', () => {
  const earlier = new Set<string>()
  for (const step of steps) {
    DerivationName.parse(step.name)
    assert(!earlier.has(step.name), `${step.name} is there twice`)
    for (const [name, input] of Object.entries(step.inputs)) {
      InputName.parse(name)
      assert(name.includes('.'), `${name} would not be placed at ./${name}`)
      if ('step' in input) assert(earlier.has(input.step), `${step.name} before ${input.step}`)
      else {
        assert(existsSync(resolve(sources, input.file)), input.file)
        assert.equal(basename(input.file), name)
      }
    }
    earlier.add(step.name)
  }
})
