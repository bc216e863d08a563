/** The section `[shares]` of the configuration. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readCommandLine } from '../../src/node/config/command-line.ts'
import { resolveConfig, type Resolution } from '../../src/node/config/resolve-config.ts'

function resolved(text: string, argv: readonly string[] = []): Resolution {
  return resolveConfig(
    readCommandLine(argv),
    {},
    {
      cwd: '/work',
      hostname: 'ci-a',
      home: '/ann',
      isRoot: false,
      isTty: false,
      readFile: (path) => (path === '/etc/mesh/mesh.toml' ? text : undefined),
    },
  )
}

test('shares: without settings every user has the same share, half of it forgotten in four hours', () => {
  assert.deepEqual(resolved('').config?.shares, { halfLifeMs: 4 * 3600 * 1000, groups: [] })
})

test('shares: groups with their users and weights, and a flag for the half-life', () => {
  const text = `[shares]
half-life = "1h"

[[shares.group]]
name = "ci"
users = ["ci-*/local", "root/ci"]
weight = 2.5

[[shares.group]]
name = "guests"
`
  assert.deepEqual(resolved(text).config?.shares, {
    halfLifeMs: 3600 * 1000,
    groups: [
      { name: 'ci', users: ['ci-*/local', 'root/ci'], weight: 2.5 },
      { name: 'guests', users: [], weight: 1 },
    ],
  })
  assert.equal(resolved(text, ['--share-half-life', '2h']).config?.shares.halfLifeMs, 7_200_000)
})

test('shares: what is wrong is shown with its line', () => {
  const messages = (text: string): string[] =>
    resolved(text).problems.map(
      ({ where, message, hints }) => `${where} ${message.split('\n')[0]} ${hints.join()}`,
    )
  assert.deepEqual(messages('[shares]\nhalflife = "4h"\n'), [
    '/etc/mesh/mesh.toml:2:1 unknown key "halflife" in [shares] did you mean "half-life"?',
  ])
  assert.deepEqual(messages('[[shares.group]]\nname = "a"\nwieght = 2\n'), [
    '/etc/mesh/mesh.toml:3:1 unknown key "wieght" in [shares.group] did you mean "weight"?',
  ])
  for (const [text, what] of [
    ['[shares]\nhalf-life = "1s"\n', /half-life: expected a duration from 1m to 30d/],
    ['[[shares.group]]\nname = "a"\nweight = 0\n', /weight/],
    ['[[shares.group]]\nname = "a"\n[[shares.group]]\nname = "a"\n', /two groups have one name/],
  ] as const)
    assert.match(messages(text).join(), what)
})
