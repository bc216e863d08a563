/** Programs of a node's operator that tell facts of its machine. */
import assert from 'node:assert/strict'
import { chmod, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import {
  askFacts,
  CUSTOM_FACTS_MAX,
  parseFacts,
  type CustomFacts,
} from '../../../src/build/probe/custom-facts.ts'
import { Builds, processesWith, uniqueSleep } from '../builds.ts'

test('custom-facts: lines', () => {
  const { facts, features, problems } = parseFacts(
    '/f',
    '# a comment\n\nlicence=yes\n  gpu=RTX 4090 = fast \nfeature kvm2\r\nfeature  big\nName=x\nfeature a b\nsecure=1\n',
  )
  assert.deepEqual(
    facts.map(({ name, value }) => [name, value]),
    [
      ['licence', 'yes'],
      ['gpu', 'RTX 4090 = fast'],
    ],
  )
  assert.deepEqual(features, ['big', 'kvm2', 'licence-yes'])
  assert.deepEqual(problems, [
    'facts /f: line 7: "Name": a name has 1-64 of a-z 0-9 _ . + -',
    'facts /f: line 8: "feature a b" is neither NAME=VALUE nor "feature NAME"',
    'facts /f: line 9: secure is found out by the node itself',
  ])
})

test('custom-facts: a value cannot order a terminal about, nor be endless; so many and no more', () => {
  const { facts } = parseFacts('/f', `a=\u001b[31mred\u0007\nb=${'x'.repeat(5000)}\n`)
  assert.deepEqual(
    facts.map(({ value }) => value.length),
    [7, 256],
  )
  assert.equal(facts[0]?.value, '[31mred')
  const many = Array.from({ length: 40 }, (_, at) => `n${at}=1\n`).join('')
  const told = parseFacts('/f', many)
  assert.equal(told.facts.length, CUSTOM_FACTS_MAX)
  assert.equal(told.problems.length, 8)
})

let builds: Builds
before(async () => {
  builds = await Builds.open()
})
after(() => builds[Symbol.asyncDispose]())

async function ask(scripts: readonly string[], limitMs = 20_000): Promise<CustomFacts> {
  const paths: string[] = []
  for (const [at, script] of scripts.entries()) {
    const path = join(builds.directory, `facts-${at}.sh`)
    await writeFile(path, `#!/bin/sh\n${script}\n`)
    await chmod(path, 0o755)
    paths.push(path)
  }
  return askFacts(builds.executor, {
    paths,
    directory: join(builds.directory, 'facts'),
    signal: new AbortController().signal,
    limitMs,
  })
}

test('custom-facts: real programs; the first that tells a fact is believed', async () => {
  const told = await ask(['echo gpu=a; echo feature x', 'echo gpu=b; echo disk=nvme; echo no >&2'])
  assert.deepEqual(
    told.facts.map(({ name, value }) => [name, value]),
    [
      ['gpu', 'a'],
      ['disk', 'nvme'],
    ],
  )
  assert.deepEqual(told.problems, [])
  assert.deepEqual(await readdir(join(builds.directory, 'facts')), [])
})

test('custom-facts: one that fails, floods or hangs tells nothing, and is ended', async () => {
  const sleep = uniqueSleep()
  const told = await ask(
    [
      'echo a=1; exit 3',
      'while :; do echo b=1; done',
      `echo c=1; sleep ${sleep} & sleep ${sleep}`,
      'echo d=1',
    ],
    1000,
  )
  assert.deepEqual(
    told.facts.map(({ name }) => name),
    ['d'],
  )
  assert.deepEqual(
    told.problems.map((problem) => problem.replace(/.*facts-(\d)\.sh /, '$1 ')),
    ['0 ended with 3', '1 printed more than 4096 bytes', '2 did not answer within 1 s'],
  )
  assert.deepEqual(await processesWith(sleep), [])
})

test('custom-facts: one that is not there', async () => {
  const told = await askFacts(builds.executor, {
    paths: ['/no/such/program'],
    directory: join(builds.directory, 'facts'),
    signal: new AbortController().signal,
  })
  assert.match(told.problems[0] ?? '', /^facts \/no\/such\/program cannot be run: /)
})
