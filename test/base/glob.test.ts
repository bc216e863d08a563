/** Patterns of names. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { matchesGlob } from '../../src/base/glob.ts'

test('glob: stars take any text, question marks one character, all else itself', () => {
  for (const [pattern, text] of [
    ['', ''],
    ['*', ''],
    ['*', 'ci-1'],
    ['ci-*', 'ci-'],
    ['*-1', 'ci-1-1'],
    ['c?-*', 'ci-7'],
    ['a*b*c', 'axxbyyc'],
    ['**', 'x'],
    ['a.b', 'a.b'],
  ] as const)
    assert.equal(matchesGlob(pattern, text), true, `${pattern} ${text}`)
  for (const [pattern, text] of [
    ['', 'a'],
    ['?', ''],
    ['ci-?', 'ci-10'],
    ['ci', 'ci-1'],
    ['*-1', 'ci-12'],
    ['a.b', 'axb'],
    ['[ab]', 'a'],
  ] as const)
    assert.equal(matchesGlob(pattern, text), false, `${pattern} ${text}`)
})

test('glob: agrees with a regular expression, and is not slow where that is', () => {
  const word = fc.string({ unit: fc.constantFrom('a', 'b', '*', '?'), maxLength: 8 })
  const text = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 8 })
  fc.assert(
    fc.property(word, text, (pattern, name) => {
      const source = pattern.replaceAll('*', '.*').replaceAll('?', '.')
      assert.equal(matchesGlob(pattern, name), new RegExp(`^${source}$`).test(name))
    }),
  )
  assert.equal(matchesGlob(`${'a*'.repeat(100)}b`, 'a'.repeat(2_000)), false)
})
