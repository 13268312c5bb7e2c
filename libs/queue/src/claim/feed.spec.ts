import { describe, expect, it } from '@jest/globals';
import { comparePositions, type Position } from '../job/job.js';
import { Feed, justBefore } from './feed.js';

const at = (micros: number, id = 1): Position => ({ micros, id: String(id) });
const NOW = 1_000;
const newFeed = (first = at(100)): Feed => new Feed('mail', 0, 0, 'jobs', first);

/** A look that took everything there was. */
function exhaust(feed: Feed, nextDueMicros: number | null = null): void {
  feed.begin();
  feed.learn({ exhausted: true, last: null, nextDueMicros, nowMicros: NOW, lastKey: null });
}

/** A look that was full, its last job at this place. */
function takeUpTo(feed: Feed, last: Position): void {
  feed.begin();
  feed.learn({ exhausted: false, last, nextDueMicros: null, nowMicros: NOW, lastKey: null });
}

describe('Feed', () => {
  it('starts just before the first job it was told of', () => {
    expect(newFeed(at(100)).after).toEqual(justBefore(at(100)));
    expect(newFeed().ready).toBe(true);
  });

  it('goes on behind the last job of a full look, and is ready at once', () => {
    const feed = newFeed();
    takeUpTo(feed, at(200, 7));
    expect(feed.after).toEqual(at(200, 7));
    expect(feed.ready).toBe(true);
  });

  it('keeps its place in a paused channel, and waits to be told', () => {
    const feed = newFeed(at(100));
    takeUpTo(feed, at(200, 7));
    feed.begin();
    feed.learn({ exhausted: true, paused: true, last: null, nextDueMicros: null, nowMicros: NOW, lastKey: null });
    expect(feed.ready).toBe(false);
    expect(feed.after).toEqual(at(200, 7));
  });

  it('keeps the earlier place where it was about to look again when its channel is paused', () => {
    const feed = newFeed(at(100));
    takeUpTo(feed, at(200, 7));
    feed.tell(at(150, 3), NOW);
    const { after } = feed;
    feed.begin();
    feed.learn({ exhausted: true, paused: true, last: null, nextDueMicros: null, nowMicros: NOW, lastKey: null });
    expect(feed.ready).toBe(false);
    expect(feed.after).toEqual(after);
  });

  it('is idle after an exhausted look, until it is told of a job', () => {
    const feed = newFeed();
    exhaust(feed);
    expect(feed.ready).toBe(false);
    feed.tell(at(NOW + 5), NOW + 10);
    expect(feed.ready).toBe(true);
  });

  it('is not looked at twice at once', () => {
    const feed = newFeed();
    feed.begin();
    expect(feed.ready).toBe(false);
  });

  it('looks again from a place that it has passed: transactions commit out of order', () => {
    const feed = newFeed();
    takeUpTo(feed, at(500));
    feed.tell(at(300, 9), NOW);
    expect(feed.after).toEqual(justBefore(at(300, 9)));
    expect(feed.ready).toBe(true);
  });

  it('looks again from a place that it has passed, also when the clock seems not to have come that far', () => {
    const feed = newFeed();
    exhaust(feed);
    feed.tell(at(NOW - 5), NOW - 10);
    expect(feed.ready).toBe(true);
    expect(comparePositions(feed.after, at(NOW - 5))).toBeLessThan(0);
  });

  it('looks again from the very place, and not from all that stands in the same microsecond', () => {
    const feed = newFeed();
    takeUpTo(feed, at(500, 90));
    feed.tell(at(500, 70), NOW);
    expect(feed.after).toEqual(at(500, 69));
  });

  it('takes no notice of what a survey has seen where claims have been since', () => {
    const feed = newFeed();
    takeUpTo(feed, at(500, 90));
    feed.see(at(500, 70), NOW);
    expect(feed.after).toEqual(at(500, 90));
    feed.see(at(500, 91), NOW);
    expect(feed.ready).toBe(true);
  });

  it('looks again from the lowest of several places', () => {
    const feed = newFeed();
    takeUpTo(feed, at(500));
    feed.tell(at(300), NOW);
    feed.tell(at(200), NOW);
    feed.tell(at(400), NOW);
    expect(feed.after).toEqual(justBefore(at(200)));
  });

  it('goes on from the old place until it has caught up, and does not forget how far it had been', () => {
    const feed = newFeed();
    takeUpTo(feed, at(500));
    feed.tell(at(100, 2), NOW);
    takeUpTo(feed, at(300));
    expect(feed.after).toEqual(at(300));
    takeUpTo(feed, at(500, 2));
    expect(feed.after).toEqual(at(500, 2));
    expect(feed.ready).toBe(true);
  });

  it('is ready when a full look from an old place has passed the end of one that found nothing more', () => {
    const feed = newFeed();
    exhaust(feed);
    feed.tell(at(50), NOW);
    takeUpTo(feed, at(NOW + 50));
    expect(feed.after).toEqual(at(NOW + 50));
    expect(feed.ready).toBe(true);
  });

  it('keeps what it was told during a look, whose snapshot may be older', () => {
    const feed = newFeed();
    feed.begin();
    feed.tell(at(50), NOW);
    feed.learn({ exhausted: true, last: null, nextDueMicros: null, nowMicros: NOW, lastKey: null });
    expect(feed.ready).toBe(true);
    expect(feed.after).toEqual(justBefore(at(50)));
  });

  it('loses nothing when a look fails', () => {
    const feed = newFeed();
    feed.begin();
    feed.tell(at(50), NOW);
    feed.end(NOW);
    expect(feed.ready).toBe(true);
    expect(comparePositions(feed.after, at(50))).toBeLessThan(0);
  });

  it('becomes ready when its next job is due, and not before', () => {
    const feed = newFeed();
    exhaust(feed, NOW + 500);
    feed.tick(NOW + 499);
    expect(feed.ready).toBe(false);
    feed.tick(NOW + 500);
    expect(feed.ready).toBe(true);
    expect(feed.nextDueMicros).toBeNull();
  });

  it('remembers the earliest of the due times it was told of', () => {
    const feed = newFeed();
    exhaust(feed, NOW + 500);
    feed.tell(at(NOW + 700), NOW);
    expect(feed.nextDueMicros).toBe(NOW + 500);
    feed.tell(at(NOW + 300), NOW);
    expect(feed.nextDueMicros).toBe(NOW + 300);
    expect(feed.ready).toBe(false);
  });

  it('looks where it is told, also when the clock, which is a guess, is behind', () => {
    const feed = newFeed();
    exhaust(feed);
    feed.tell(at(NOW - 5), NOW - 10);
    expect(feed.ready).toBe(true);
    expect(feed.after).toEqual(justBefore(at(NOW - 5)));
  });

  it('finds a job of the near future when it has come to know one of the far future first', () => {
    const feed = newFeed(at(NOW + 3_600_000));
    exhaust(feed, NOW + 3_600_000);
    feed.tell(at(NOW + 20), NOW);
    feed.tick(NOW + 20);
    expect(feed.ready).toBe(true);
    expect(comparePositions(feed.after, at(NOW + 20))).toBeLessThan(0);
  });

  it('does not look again for a job that the look itself has leased', () => {
    const feed = newFeed();
    feed.begin();
    feed.tell(at(NOW - 5, 7), NOW);
    feed.tell(at(NOW - 4, 8), NOW);
    const news = { exhausted: true, last: at(NOW - 5, 7), nextDueMicros: null, nowMicros: NOW, lastKey: null };
    feed.learn(news, (id) => id === '7');
    expect(feed.after).toEqual(justBefore(at(NOW - 4, 8)));
  });

  it('looks on behind a pause when a survey sees anything, whatever place that is, and once', () => {
    const feed = newFeed(at(100));
    takeUpTo(feed, at(200, 7));
    feed.begin();
    feed.learn({ exhausted: true, paused: true, last: null, nextDueMicros: null, nowMicros: NOW, lastKey: null });
    feed.see(at(100), NOW);
    expect(feed.ready).toBe(true);
    expect(feed.after).toEqual(at(200, 7));
    exhaust(feed);
    feed.see(at(100), NOW);
    expect(feed.ready).toBe(false);
  });

  it('looks on when the channel was paused and resumed, and surveyed, within one look', () => {
    const feed = newFeed(at(100));
    takeUpTo(feed, at(200, 7));
    feed.begin();
    feed.see(at(100), NOW);
    feed.learn({ exhausted: true, paused: true, last: null, nextDueMicros: null, nowMicros: NOW, lastKey: null });
    expect(feed.ready).toBe(true);
    expect(feed.after).toEqual(at(200, 7));
  });

  it('looks again for what came with a job that the look has leased from before its beginning, with the rest of a lane', () => {
    const feed = newFeed();
    exhaust(feed);
    feed.tell(at(NOW + 1, 9), NOW + 2);
    feed.begin();
    feed.tell(at(50, 7), NOW + 2);
    const news = { exhausted: true, last: at(NOW + 1, 9), nextDueMicros: null, nowMicros: NOW + 2, lastKey: null };
    feed.learn(news, (id) => id === '7' || id === '9');
    expect(feed.ready).toBe(true);
    expect(feed.after).toEqual(justBefore(at(50, 7)));
  });

  it('looks again from where a look began that had to leave a lane to somebody who may have seen less of it', () => {
    const feed = newFeed();
    takeUpTo(feed, at(500));
    feed.tell(at(100, 2), NOW);
    const { after } = feed;
    feed.begin();
    feed.learn({ exhausted: true, refused: true, last: null, nextDueMicros: null, nowMicros: NOW, lastKey: null });
    expect(feed.ready).toBe(true);
    expect(feed.after).toEqual(after);
  });
});
