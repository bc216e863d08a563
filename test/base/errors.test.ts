/** The table of errors is what people and scripts rely on. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ERRORS, EXIT, hasCode, isErrorCode, MeshError, messageOf } from '../../src/base/errors.ts'

test('errors: codes are well-formed and in ascending order', () => {
  const codes = Object.keys(ERRORS)
  for (const code of codes) assert.match(code, /^MESH\d{4}$/)
  assert.deepEqual(codes, codes.toSorted())
})

test('errors: every entry has a short title, an explanation in sentences and a known exit code', () => {
  const exits = new Set<number>(Object.values(EXIT))
  for (const [code, { title, explain, exit, retryable }] of Object.entries(ERRORS)) {
    assert(title.length <= 70 && !title.endsWith('.'), `${code}: ${title}`)
    assert(/^(?:[A-Z`]|mesh ).*\.$/s.test(explain), `${code}: ${explain}`)
    assert(exits.has(exit) && exit !== EXIT.ok, `${code}: exit ${exit}`)
    // A script may repeat what ends with "temporary"; it must then be worth it.
    if (exit === EXIT.temporary) assert(retryable, code)
  }
})

test('errors: codes never change their exit', () => {
  const expected = {
    MESH0101: 69,
    MESH0301: 4,
    MESH0304: 8,
    MESH0401: 1,
    MESH0407: 1,
    MESH0504: 75,
    MESH0106: 78,
    MESH0503: 73,
    MESH0601: 5,
  } as const
  for (const [code, exit] of Object.entries(expected))
    assert.equal(isErrorCode(code) ? ERRORS[code].exit : undefined, exit, code)
})

test('errors: a mesh error carries code, place, hints and cause', () => {
  const cause = new Error('below')
  const error = new MeshError('MESH0503', 'no room', { where: 'n1', hints: ['make room'], cause })
  assert.deepEqual(
    [error.code, error.where, error.hints, error.exit, error.cause, error.name],
    ['MESH0503', 'n1', ['make room'], 73, cause, 'MeshError'],
  )
  assert.equal('cause' in new MeshError('MESH0001', 'x'), false)
})

test('errors: names of the prototype are no codes', () => {
  for (const text of ['constructor', '__proto__', 'toString', 'MESH9999', ''])
    assert.equal(isErrorCode(text), false)
})

test('errors: codes of the system are recognised on errors only', () => {
  assert.equal(hasCode(Object.assign(new Error('x'), { code: 'ENOENT' }), 'EACCES', 'ENOENT'), true)
  assert.equal(hasCode({ code: 'ENOENT' }, 'ENOENT'), false)
  assert.equal(hasCode(new Error('ENOENT'), 'ENOENT'), false)
})

test('errors: anything thrown has a text', () => {
  assert.equal(messageOf(new AggregateError([new Error('a'), 'b'])), 'a; b')
  assert.deepEqual(
    [messageOf('x'), messageOf(undefined), messageOf(new Error('e'))],
    ['x', 'undefined', 'e'],
  )
})
