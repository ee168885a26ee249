"Find, rank, show and fix wrong labels, starting from the fastai `Learner` you already have."
__version__ = '0.1.0'
